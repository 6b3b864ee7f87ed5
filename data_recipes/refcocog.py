"""Sentences that mean one thing in a picture, and its box: RefCOCOg, its training split."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="refcocog/refs(umd).p",
    how="file",
    licence="Apache-2.0 (the REFER toolbox); COCO's pictures under the terms of Flickr's users",
    citation="Mao et al., 2016, arXiv:1511.02283; the split of the University of Maryland",
    picture=None,
    turns=forms.refer,
    prompts=prompts.REFER,
    expected_rows=49_822,
    files=(
        Download(
            path="refcocog/refs(umd).p",
            url="https://web.archive.org/web/20220413011718/https://bvisionweb1.cs.unc.edu/licheng/referit/data/refcocog.zip",
            direct=False,
            note="the archive has it; unpack it",
        ),
        Download(
            path="refcocog/instances.json",
            url="https://web.archive.org/web/20220413011718/https://bvisionweb1.cs.unc.edu/licheng/referit/data/refcocog.zip",
            direct=False,
            note="the archive has it; unpack it",
        ),
    ),
    layout=forms.refer_layout("refcocog"),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.reference_picture,
)
