"""COCO's captions, the training split of Karpathy and Fei-Fei. Off in the released run.

That split trains on the pictures of `val2014`, too, but for those on which it validates and tests.
"""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="coco_caption/coco_karpathy_train.json",
    how="file",
    licence="CC-BY-4.0 (annotations); the pictures under the terms of Flickr's users",
    citation="Lin et al., 2014, arXiv:1405.0312; Karpathy and Fei-Fei, 2014, arXiv:1412.2306",
    picture=None,
    turns=forms.caption,
    prompts=prompts.CAPTION,
    expected_rows=566_747,
    files=(
        Download(
            path="coco_caption/coco_karpathy_train.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/datasets/coco_karpathy_train.json",
            direct=True,
            note="in the form that LAVIS gave it",
        ),
    ),
    picture_sets=(pictures.COCO_TRAIN2014, pictures.COCO_VAL2014),
    picture_name=forms.picture_file,
)
