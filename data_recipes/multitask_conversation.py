"""Talks about COCO's pictures in which several tasks follow one another, made for MiniGPT-v2."""

from data_recipes.parts import forms, pictures
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="multitask_conversation/multitask_conversation.json",
    how="file",
    licence="BSD-3-Clause (MiniGPT-v2's release)",
    citation="Chen et al., 2023, arXiv:2310.09478",
    picture=None,
    turns=forms.conversation,
    files=(
        Download(
            path="multitask_conversation/multitask_conversation.json",
            url="https://github.com/Vision-CAIR/MiniGPT-4/blob/main/dataset/README_MINIGPTv2_FINETUNE.md",
            direct=False,
            note="its section on multi-task conversation has the file, on Google Drive",
        ),
    ),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.coco_picture,
)
