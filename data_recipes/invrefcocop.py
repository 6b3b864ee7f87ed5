"""The boxes of things, and sentences that mean them: RefCOCO+ asked the other way round."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=2,
    source="refcoco+/refs(unc).p",
    how="file",
    licence=forms.REFER_LICENCE,
    citation="Yu, Poirson, Yang, Berg and Berg, 2016, arXiv:1608.00272",
    picture=None,
    turns=forms.identify,
    prompts=prompts.IDENTIFY,
    expected_rows=49_856,
    files=forms.refer_files("refcoco+", "unc"),
    layout=forms.refer_layout("refcoco+"),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.reference_picture,
)
