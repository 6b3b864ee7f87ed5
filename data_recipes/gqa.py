"""Questions about what is in pictures of Visual Genome: GQA, its balanced training split."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="gqa/train_balanced_questions.json",
    how="file",
    licence="CC-BY-4.0",
    citation="Hudson and Manning, 2019, arXiv:1902.09506",
    picture=None,
    turns=forms.short_answer,
    prompts=prompts.VQA,
    expected_rows=943_000,
    files=(
        Download(
            path="gqa/train_balanced_questions.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/datasets/gqa/train_balanced_questions.json",
            direct=True,
            note="in the form that LAVIS gave it",
        ),
    ),
    picture_sets=(pictures.GQA,),
    picture_name=forms.picture_file,
)
