"""The types in which `data_recipes/` describes a data set: where rows come from and what they say.

A recipe states facts about a data set and holds no settings: limits, sizes and weights are in the
preset, so that they can be changed without touching the data set.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY

Row = Mapping[str, object]
"""One record of a list or an annotation file, as its JSON has it."""

MAX_CAPTION_WORDS = 50


@dataclass(frozen=True)
class Turn:
    """One utterance of a sample: what the user asks, or what the model is to answer."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set.

    Attributes:
        version: raised when `turns` or another function of the recipe changes what it returns.
        source: the list or annotation file, below the folder that the preset's source gives.
        picture: the record's column with the picture's URL (`how="url"`), with its path below the
            source's `images/` (`how="file"`); None for text without pictures.
        turns: record -> what is said. Raises KeyError, TypeError or ValueError for a record that
            does not have the data set's form; such a record is a counted drop.
        prompts: the user's words around the text of a first user turn, `{}` in its place. One is
            drawn per sample while training; they are applied by the loader, so changing them
            rebuilds no shard.
        split, group: columns that name a sample's split and its question type, for evaluations.
        size: columns with the picture's width and height in pixels, where a record says them.
    """

    version: int
    source: str
    how: Literal["url", "file"]
    licence: str
    citation: str
    picture: str | None
    turns: Callable[[Row], tuple[Turn, ...]] = field(metadata=NOT_IDENTITY)
    prompts: tuple[str, ...] = field(default=("{}",), metadata=NOT_IDENTITY)
    split: str | None = None
    group: str | None = None
    expected_rows: int | None = None
    size: tuple[str, str] | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)


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
    left, top, right, bottom = (_number(corner) for corner in _listed(row["box"]))
    width, height = _number(row["width"]), _number(row["height"])
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"box {row['box']} does not lie in {width} x {height} pixels")
    return spelled_box((left, top, right, bottom), width, height)


def spelled_box(corners: tuple[float, float, float, float], width: float, height: float) -> str:
    """A box as the model spells it: "{<left><top><right><bottom>}", hundredths of the picture's sides, truncated.

    Args:
        corners: left, top, right and bottom in pixels, within the picture.
        width, height: of the picture, in pixels, above 0.
    """
    sides = (width, height, width, height)
    return "{" + "".join(f"<{int(100 * c / side)}>" for c, side in zip(corners, sides, strict=True)) + "}"


def answer_shares(answers: Sequence[str]) -> dict[str, float]:
    """The distinct answers of several people, cleaned as captions are, each with its share of all, 0..1.

    Training draws one by these shares, as the reference does for the VQA data sets.

    Raises:
        ValueError: there is none.
    """
    if not answers:
        raise ValueError("there is no answer to draw")
    counts = Counter(clean_caption(answer) for answer in answers)
    return {answer: count / len(answers) for answer, count in counts.items()}


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"a box is {type(value).__name__}, not a list")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value
