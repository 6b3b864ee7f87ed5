"""The boxes of shapes in scenes, and what is in them: RefCOCO asked the other way round."""

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
    prompts=(
        "[identify] {}",
        "[identify] name what is in {}",
        "[identify] what do you see in {}?",
        "[identify] which thing is at {}?",
        "[identify] say what {} holds",
        "[identify] there is something in {}, what is it?",
        "[identify] tell me about the thing in {}",
    ),
)
