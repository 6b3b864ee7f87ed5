"""Scenes with captions of several sentences. It stands for MiniGPT-4's 3,500 aligned pairs (`cc_sbu_align`)."""

from data_recipes.parts import prompts
from tinygptv_core.columns import text_of
from tinygptv_core.recipe import Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "caption"}` -> the caption as it is; what asks for it is the prompt."""
    return (Turn("assistant", text_of(row, "caption")),)


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_detail.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=turns,
    prompts=prompts.DETAIL,
)
