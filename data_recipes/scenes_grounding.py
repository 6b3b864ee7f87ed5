"""Scenes with captions in which every phrase has its box, as in the grounded captions of Flickr30k."""

from data_recipes.parts import prompts
from tinygptv_core.columns import text_of
from tinygptv_core.recipe import Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "grounded_caption"}` -> the caption with `<p>phrase</p> {box}`, as it is."""
    return (Turn("assistant", text_of(row, "grounded_caption")),)


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_grounding.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=turns,
    prompts=prompts.GROUNDING,
)
