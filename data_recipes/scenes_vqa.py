"""Questions about scenes with answers of one or two words, as in VQA and GQA."""

from data_recipes.parts import prompts
from tinygptv_core.columns import text_of
from tinygptv_core.recipe import Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "question", "answer"}` -> the question and its answer."""
    return Turn("user", text_of(row, "question")), Turn("assistant", text_of(row, "answer"))


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_vqa.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=turns,
    prompts=prompts.VQA,
    group="type",
)
