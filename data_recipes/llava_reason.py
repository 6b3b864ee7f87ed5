"""Questions that need reasoning, about COCO's pictures: LLaVA-Instruct, its first turn alone."""

from data_recipes.parts import forms, pictures
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="llava/complex_reasoning_77k.json",
    how="file",
    licence="CC-BY-4.0, and OpenAI's terms of use, since GPT-4 wrote it",
    citation="Liu, Li, Wu and Lee, 2023, arXiv:2304.08485",
    picture=None,
    turns=forms.first_exchange,
    expected_rows=76_643,
    files=(
        Download(
            path="llava/complex_reasoning_77k.json",
            url="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main/complex_reasoning_77k.json",
            direct=True,
            megabytes=80,
        ),
    ),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.coco_picture,
)
