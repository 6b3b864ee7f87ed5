"""Text alone: a scene in words and a question about it, so that reading is not forgotten over seeing."""

from tinygptv_core.columns import text_of
from tinygptv_core.recipe import Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"instruction", "output"}` -> the instruction and what was to be put out."""
    return Turn("user", text_of(row, "instruction")), Turn("assistant", text_of(row, "output"))


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_text.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture=None,
    turns=turns,
    prompts=("{}",),
)
