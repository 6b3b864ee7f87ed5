"""Questions about COCO's pictures, each answered by ten people: VQA v2, its training split."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="coco_vqa/vqa_train.json",
    how="file",
    licence="CC-BY-4.0",
    citation="Goyal, Khot, Summers-Stay, Batra and Parikh, 2016, arXiv:1612.00837",
    picture=None,
    turns=forms.answered,
    prompts=prompts.VQA,
    expected_rows=443_757,
    files=(
        Download(
            path="coco_vqa/vqa_train.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/datasets/vqa_train.json",
            direct=True,
            note="in the form that LAVIS gave it",
        ),
    ),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.picture_file,
)
