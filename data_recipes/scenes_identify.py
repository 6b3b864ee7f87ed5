"""The boxes of shapes in scenes, and what is in them: RefCOCO asked the other way round."""

from data_recipes.parts import prompts
from tinygptv_core.columns import box_of, text_of
from tinygptv_core.recipe import Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "width", "height", "phrase", "box"}` -> the box and its phrase."""
    return Turn("user", box_of(row)), Turn("assistant", text_of(row, "phrase"))


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_identify.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=turns,
    prompts=prompts.IDENTIFY,
)
