"""Pictures with a text that are hateful, or not, together: Hateful Memes, its development split."""

from data_recipes.parts import forms, pictures
from tinygptv_core.columns import said_in
from tinygptv_core.recipe import Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"img", "text", "label": 0 or 1}` -> the text in the picture, and "yes" if both together are hateful."""
    return Turn("user", said_in(row, "text")), Turn("assistant", forms.of_two(row, "label", ("no", "yes")))


def picture_name(row: Row) -> str:
    """`{"img": "img/42953.png"}` -> the file's name."""
    return forms.file_name(row, "img")


RECIPE = Recipe(
    version=1,
    source="hateful_memes/dev.jsonl",
    how="file",
    licence="Meta's licence for Hateful Memes, to be agreed to: research alone, no passing on",
    citation="Kiela et al., 2020, arXiv:2005.04790",
    picture=None,
    turns=turns,
    expected_rows=500,
    files=(
        Download(
            path="hateful_memes/dev.jsonl",
            url="https://hatefulmemeschallenge.com/",
            direct=False,
            note="agree to the licence; the archive has it",
        ),
    ),
    picture_sets=(pictures.HATEFUL_MEMES,),
    picture_name=picture_name,
)
