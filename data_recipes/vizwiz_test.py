"""Questions that blind people asked about photographs of theirs, each answered by ten: VizWiz, its validation split."""

from data_recipes.parts import forms, pictures
from tinygptv_core.columns import list_of, said_in
from tinygptv_core.recipe import Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "question", "answers": [{"answer"}, ...]}` -> the question and all answers, as they are."""
    return Turn("user", said_in(row, "question")), forms.official_answers(list_of(row["answers"], "answers"))


RECIPE = Recipe(
    version=1,
    source="vizwiz/val.json",
    how="file",
    licence="CC-BY-4.0",
    citation="Gurari et al., 2018, arXiv:1802.08218",
    picture=None,
    turns=turns,
    group="answer_type",
    expected_rows=4_319,
    files=(
        Download(
            path="vizwiz/val.json",
            url="https://vizwiz.cs.colorado.edu/VizWiz_final/vqa_data/Annotations.zip",
            direct=True,
            note="unpack it; take its val.json",
        ),
    ),
    picture_sets=(pictures.VIZWIZ,),
    picture_name=forms.picture_file,
)
