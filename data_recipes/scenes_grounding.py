"""Scenes with captions in which every phrase has its box, as in the grounded captions of Flickr30k."""

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
    prompts=(
        "[grounding] Say what the picture shows and where each thing is.",
        "[grounding] Describe the picture with a box for every thing.",
        "[grounding] What is there, and at which place?",
        "[grounding] Caption the picture and mark all that you name.",
    ),
)
