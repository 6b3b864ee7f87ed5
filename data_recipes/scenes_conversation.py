"""Talks of several questions about one scene, in LLaVA's form."""

from collections.abc import Mapping
from typing import Literal

from tinygptv_core.columns import text_of
from tinygptv_core.recipe import Recipe, Row, Turn

ROLES: Mapping[object, Literal["user", "assistant"]] = {"human": "user", "gpt": "assistant"}


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "conversations": [{"from", "value"}, ...]}` -> all of it; `<image>` in the first value is dropped."""
    said = row["conversations"]
    if not isinstance(said, list):
        raise TypeError(f"conversations is {type(said).__name__}, not a list")
    return tuple(Turn(ROLES[one["from"]], text_of(one, "value").replace("<image>", "").strip()) for one in said)


RECIPE = Recipe(
    version=1,
    source="annotations/scenes_conversation.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=turns,
    prompts=("{}",),
)
