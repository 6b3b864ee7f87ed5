"""Statements on where things are in a picture, true or false: Visual Spatial Reasoning, its zero-shot test split."""

from data_recipes.parts import forms, pictures
from tinygptv_core.columns import said_in
from tinygptv_core.recipe import Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "caption", "label": 0 or 1}` -> the statement, and "true" or "false"."""
    return Turn("user", said_in(row, "caption")), Turn("assistant", forms.of_two(row, "label", ("false", "true")))


RECIPE = Recipe(
    version=1,
    source="vsr/test.jsonl",
    how="file",
    licence="CC-BY-4.0",
    citation="Liu, Emerson and Collier, 2022, arXiv:2205.00363",
    picture=None,
    turns=turns,
    group="relation",
    expected_rows=1_222,
    files=(
        Download(
            path="vsr/test.jsonl",
            url="https://huggingface.co/datasets/cambridgeltl/vsr_zeroshot/resolve/main/test.jsonl",
            direct=True,
        ),
    ),
    picture_sets=(pictures.VSR,),
    picture_name=forms.picture_file,
)
