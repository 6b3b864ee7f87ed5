"""Every sentence of RefCOCO's held-out splits, for evaluation. No stage trains on it.

Of its training split nothing is kept.
"""

from data_recipes.parts import forms, pictures
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="refcoco/refs(unc).p",
    how="file",
    licence="Apache-2.0 (the REFER toolbox); COCO's pictures under the terms of Flickr's users",
    citation="Yu, Poirson, Yang, Berg and Berg, 2016, arXiv:1608.00272",
    picture=None,
    turns=forms.expression,
    split="split",
    group="category_id",
    files=(
        Download(
            path="refcoco/refs(unc).p",
            url="https://web.archive.org/web/20220413011718/https://bvisionweb1.cs.unc.edu/licheng/referit/data/refcoco.zip",
            direct=False,
            note="the archive has it; unpack it",
        ),
        Download(
            path="refcoco/instances.json",
            url="https://web.archive.org/web/20220413011718/https://bvisionweb1.cs.unc.edu/licheng/referit/data/refcoco.zip",
            direct=False,
            note="the archive has it; unpack it",
        ),
    ),
    layout=forms.refer_layout("refcoco"),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.reference_picture,
    samples=forms.expressions,
)
