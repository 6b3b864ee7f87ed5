"""GQA's balanced test-dev questions, for evaluation. No stage trains on it."""

from data_recipes.parts import forms, pictures
from tinygptv_core.columns import said_in
from tinygptv_core.recipe import Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "question", "answer"}` -> question and answer as they are."""
    return Turn("user", said_in(row, "question")), Turn("assistant", said_in(row, "answer"))


RECIPE = Recipe(
    version=1,
    source="gqa/testdev_balanced_questions.json",
    how="file",
    licence="CC-BY-4.0",
    citation="Hudson and Manning, 2019, arXiv:1902.09506",
    picture=None,
    turns=turns,
    expected_rows=12_578,
    files=(
        Download(
            path="gqa/testdev_balanced_questions.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/datasets/gqa/testdev_balanced_questions.json",
            direct=True,
            note="in the form that LAVIS gave it",
        ),
    ),
    picture_sets=(pictures.GQA,),
    picture_name=forms.picture_file,
)
