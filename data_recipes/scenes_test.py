"""Held-out scenes and what the evaluations ask about them. No stage trains on it."""

from tinygptv_core.columns import text_of
from tinygptv_core.recipe import Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "question", "answer", "split", "group"}` -> the question, if there is one, and the true answer."""
    asked = text_of(row, "question")
    answer = Turn("assistant", text_of(row, "answer"))
    return (Turn("user", asked), answer) if asked else (answer,)


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_test.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=turns,
    prompts=("{}",),
    split="split",
    group="group",
)
