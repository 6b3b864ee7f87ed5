"""The boxes of things, and sentences that mean them: RefCOCOg asked the other way round."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=2,
    source="refcocog/refs(umd).p",
    how="file",
    licence=forms.REFER_LICENCE,
    citation="Mao et al., 2016, arXiv:1511.02283; the split of the University of Maryland",
    picture=None,
    turns=forms.identify,
    prompts=prompts.IDENTIFY,
    expected_rows=49_822,
    files=forms.refer_files("refcocog", "umd"),
    layout=forms.refer_layout("refcocog"),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.reference_picture,
)
