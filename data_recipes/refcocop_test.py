"""Every sentence of RefCOCO+'s held-out splits, for evaluation. No stage trains on it.

Of its training split nothing is kept.
"""

from data_recipes.parts import forms, pictures
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=2,
    source="refcoco+/refs(unc).p",
    how="file",
    licence=forms.REFER_LICENCE,
    citation="Yu, Poirson, Yang, Berg and Berg, 2016, arXiv:1608.00272",
    picture=None,
    turns=forms.expression,
    split="split",
    group="category_id",
    files=forms.refer_files("refcoco+", "unc"),
    layout=forms.refer_layout("refcoco+"),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.reference_picture,
    samples=forms.expressions,
)
