"""What stands in a record's columns, checked, and what is said of it: what recipes are written with."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from tinygptv_core.boxes import spelled
from tinygptv_core.recipe import Row, Turn, UnfitError

MAX_CAPTION_WORDS = 50
MAX_NUMBER = 1e12
"""No side of a picture or a box is so long, and arithmetic on what is below is far from overflowing."""


def mapping_of(value: object, what: str = "a record") -> Row:
    """`value` as an object of JSON.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is {type(value).__name__}, not an object")
    return value


def list_of(value: object, what: str) -> list[object]:
    """`value` as a list of JSON.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, list):
        raise TypeError(f"{what} is {type(value).__name__}, not a list")
    return value


def scalar_of(row: Row, column: str) -> str | int:
    """The text or whole number in `column`, by which things are named.

    Raises:
        KeyError: there is no such column.
        TypeError: it is neither.
    """
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{column} is {type(value).__name__}, neither a text nor a whole number")
    return value


def number_of(row: Row, column: str) -> float:
    """The number in `column`.

    Raises:
        KeyError, TypeError: there is none.
    """
    return _number(row[column])


def said_in(row: Row, column: str) -> str:
    """The text in `column`, which must say something.

    Raises:
        KeyError, TypeError: there is none.
        ValueError: it is empty.
    """
    text = text_of(row, column)
    if not text.strip():
        raise ValueError(f"{column} is empty")
    return text


def cleaned(row: Row, column: str) -> str:
    """The text in `column` as `clean_caption` makes it, which must say something.

    Raises:
        KeyError, TypeError: there is none.
        ValueError: nothing is left of it.
    """
    text = clean_caption(text_of(row, column))
    if not text.strip():
        raise ValueError(f"{column} is empty")
    return text


def any_of(role: Literal["user", "assistant"], texts: Sequence[str]) -> Turn:
    """A turn with one of `texts`.

    Raises:
        ValueError: none of them says anything.
    """
    if not any(text.strip() for text in texts):
        raise ValueError(f"of {len(texts)} texts of the {role} none says anything")
    return Turn(role, texts[0], tuple(texts[1:]))


def text_of(row: Row, column: str) -> str:
    """The text in `column`.

    Raises:
        KeyError: there is no such column.
        TypeError: it is not a text.
    """
    value = row[column]
    if not isinstance(value, str):
        raise TypeError(f"{column} is {type(value).__name__}, not a text")
    return value


def clean_caption(caption: str) -> str:
    """A caption as stages 1 and 2 read it: lower case, ten marks to spaces, at most 50 words.

    As in the reference (BLIP's), only runs of white space become a space: a single tab or line break stays.
    """
    spaced = re.sub(r"\s{2,}", " ", re.sub(r"[.!\"()*#:;~]", " ", caption.lower()))
    return " ".join(spaced.rstrip("\n").strip(" ").split(" ")[:MAX_CAPTION_WORDS])


def caption_turns(row: Row) -> tuple[Turn, ...]:
    """`{"caption": ...}` -> the one thing to say about the picture, cleaned."""
    return (Turn("assistant", clean_caption(text_of(row, "caption"))),)


def box_of(row: Row) -> str:
    """`{"box": [left, top, right, bottom], "width", "height"}`, in pixels -> the box as the model spells it.

    Returns:
        "{<x1><y1><x2><y2>}", whole hundredths of width and height, truncated (MiniGPT-v2, arXiv:2310.09478).

    Raises:
        KeyError: a column is missing.
        TypeError, ValueError: it is not four numbers, width or height is not above 0, or the box is not inside.
    """
    left, top, right, bottom = (_number(corner) for corner in list_of(row["box"], "a box"))
    width, height = _number(row["width"]), _number(row["height"])
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"box {row['box']} does not lie in {width} x {height} pixels")
    return spelled((left, top, right, bottom), width, height)


def region_box(box: Row | Sequence[object], width: float, height: float) -> str:
    """A box with its left upper corner and its sides, in pixels, as the model spells it.

    Annotators' boxes reach over the picture's edge now and then; what lies outside is cut off.

    Args:
        box: [left, top, width, height], or an object with x, y, width and height.

    Raises:
        KeyError, TypeError: it is none of the two, or something is no number.
        UnfitError: nothing of it lies in the picture, or it has no area.
        ValueError: the picture has no area.
    """
    sides = [box[name] for name in ("x", "y", "width", "height")] if isinstance(box, Mapping) else list(box)
    if len(sides) != 4:
        raise TypeError(f"a box has four numbers, not {len(sides)}")
    left, top, across, down = map(_number, sides)
    if not (width > 0 and height > 0):
        raise ValueError(f"the picture has {width} x {height} pixels")
    inside = (max(left, 0.0), max(top, 0.0), min(left + across, width), min(top + down, height))
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        raise UnfitError("box_outside", f"{across} x {down} at {left}, {top} in {width} x {height} pixels")
    return spelled(inside, width, height)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        raise TypeError(f"{value!r:.40} is not a number below {MAX_NUMBER:.0e}")
    return value
