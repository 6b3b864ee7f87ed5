"""Captions that read what is written in a picture: TextCaps."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.columns import cleaned
from tinygptv_core.recipe import AnnotationLayout, Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image_id", "caption_str"}` -> the caption, cleaned."""
    return (Turn("assistant", cleaned(row, "caption_str")),)


RECIPE = Recipe(
    version=1,
    source="textcaps/TextCaps_0.1_train.json",
    how="file",
    licence="CC-BY-4.0; the pictures, of OpenImages, CC-BY-2.0",
    citation="Sidorov, Hu, Rohrbach and Singh, 2020, arXiv:2003.12462",
    picture=None,
    turns=turns,
    prompts=prompts.CAPTION,
    expected_rows=109_765,
    files=(
        Download(
            path="textcaps/TextCaps_0.1_train.json",
            url="https://dl.fbaipublicfiles.com/textvqa/data/textcaps/TextCaps_0.1_train.json",
            direct=True,
        ),
    ),
    layout=AnnotationLayout(at="data"),
    picture_sets=(pictures.TEXTCAPS,),
    picture_name=forms.numbered_picture,
)
