"""Sentences that mean one thing in a picture, and its box: RefCOCO, its training split."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=2,
    source="refcoco/refs(unc).p",
    how="file",
    licence=forms.REFER_LICENCE,
    citation="Yu, Poirson, Yang, Berg and Berg, 2016, arXiv:1608.00272",
    picture=None,
    turns=forms.refer,
    prompts=prompts.REFER,
    expected_rows=50_000,
    files=forms.refer_files("refcoco", "unc"),
    layout=forms.refer_layout("refcoco"),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.reference_picture,
)
