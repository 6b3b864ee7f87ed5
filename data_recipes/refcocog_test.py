"""Every sentence of RefCOCOg's held-out splits, for evaluation. No stage trains on it.

Of its training split nothing is kept.
"""

from data_recipes.parts import forms, pictures
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=2,
    source="refcocog/refs(umd).p",
    how="file",
    licence=forms.REFER_LICENCE,
    citation="Mao et al., 2016, arXiv:1511.02283; the split of the University of Maryland",
    picture=None,
    turns=forms.expression,
    split="split",
    group="category_id",
    files=forms.refer_files("refcocog", "umd"),
    layout=forms.refer_layout("refcocog"),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.reference_picture,
    samples=forms.expressions,
)
