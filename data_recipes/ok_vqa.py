"""Questions about COCO's pictures that need knowledge of the world: OK-VQA, its training split."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="ok_vqa/okvqa_train.json",
    how="file",
    licence="CC-BY-4.0",
    citation="Marino, Rastegari, Farhadi and Mottaghi, 2019, arXiv:1906.00067",
    picture=None,
    turns=forms.answered,
    prompts=prompts.VQA,
    expected_rows=9_009,
    files=(
        Download(
            path="ok_vqa/okvqa_train.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/datasets/okvqa/okvqa_train.json",
            direct=True,
            note="in the form that LAVIS gave it",
        ),
    ),
    picture_sets=(pictures.COCO_TRAIN2014,),
    picture_name=forms.picture_file,
)
