"""Talks about COCO's pictures, written by GPT-4: LLaVA-Instruct, conversations."""

from data_recipes.parts import forms, pictures
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="llava/conversation_58k.json",
    how="file",
    licence="CC-BY-4.0, and OpenAI's terms of use, since GPT-4 wrote it",
    citation="Liu, Li, Wu and Lee, 2023, arXiv:2304.08485",
    picture=None,
    turns=forms.conversation,
    expected_rows=56_681,
    files=(
        Download(
            path="llava/conversation_58k.json",
            url="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main/conversation_58k.json",
            direct=True,
            megabytes=126,
        ),
    ),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.coco_picture,
)
