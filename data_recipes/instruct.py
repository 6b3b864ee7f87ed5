"""A user's own pictures and conversations in LLaVA's form, in place of the instruction stages' data.

`tinygptv run --instruct FILE --images DIR` puts FILE in the place of `source` and DIR in that of the pictures.
"""

from data_recipes.parts.forms import conversation
from tinygptv_core.columns import text_of
from tinygptv_core.recipe import PictureSet, Recipe, Row, UnfitError

IMAGES = PictureSet(name="instruct", folder="", archive=None)


def picture_name(row: Row) -> str:
    """`{"image": "train/1.jpg"}` -> the path below DIR. One without a picture is left out."""
    if row.get("image") is None:
        raise UnfitError("no_picture", "a conversation without a picture")
    return text_of(row, "image").strip().removeprefix("./")


RECIPE = Recipe(
    version=2,
    source="instruct",
    how="file",
    licence="the user's",
    citation="the user's",
    picture=None,
    turns=conversation,
    picture_sets=(IMAGES,),
    picture_name=picture_name,
)
