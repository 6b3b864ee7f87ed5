"""Phrases that mean one shape of a scene, and its box, as in RefCOCO."""

from data_recipes.parts import prompts
from tinygptv_core.columns import box_of, text_of
from tinygptv_core.recipe import Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "width", "height", "phrase", "box"}` -> the phrase and its box."""
    return Turn("user", text_of(row, "phrase")), Turn("assistant", box_of(row))


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_refer.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=turns,
    prompts=prompts.REFER,
)
