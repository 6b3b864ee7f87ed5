"""The records of a JSON array of any length, some at a time: text in, records out, `Malformed` for one that is none.

Records are cut out by orjson, many at a time, and by Python's decoder wherever orjson refuses: it says at which byte
a list ends, and reads what orjson calls no JSON (NaN, half a surrogate pair). They differ in one thing: whole numbers
beyond 64 bits, which become fractions.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

import orjson

from tasks.reading.list_columns import WantedColumns, text_columns
from tasks.reading.resync import broken_end
from tinygptv_core.plain import ConfigError

CHUNK_CHARACTERS = 1 << 21
MAX_RECORD_CHARACTERS = 1 << 26
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{")
# What an unfinished value may leave at the end of a text, as far as the decoder objects to it.
_VALUE_ENDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity", ".", "e+", "e-", "E+", "E-")
_ESCAPE_CHARACTERS = 12
_NUMBER_FOLLOW = 2


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """What is no record, or no value of one, and why."""

    detail: str


def read_array(file: TextIO, name: object, wanted: WantedColumns | None = None) -> Iterator[Sequence[object]]:
    """The items of the array that `file` holds, in order, some at a time: as the columns `wanted` where it can be.

    What waits in memory is a few pieces of the text, or one record of at most `MAX_RECORD_CHARACTERS`.

    Args:
        name: of the file, for messages.

    Raises:
        ConfigError: it is empty, is no array, has more after its end, or is cut off (says at which byte).
    """
    array = _Array(file, name)
    opening = array.peek()
    if not opening:
        raise ConfigError(f"{name} is empty; a list holds at least one record")
    if opening != "[":
        raise ConfigError(
            f"{name} is not a list: it begins with {opening!r}, a JSON list with '['. "
            "A file with one record per line must be called .jsonl"
        )
    array.at += 1
    goes_on = array.peek() != "]"
    while goes_on:
        items, goes_on = _several(array, wanted) or _singly(array)
        yield items
    array.at += 1
    if array.peek():
        raise ConfigError(f"{name}: the list ends before byte {array.byte(array.at)}, but more follows")


def cut_off(name: object, byte: int, where: str) -> str:
    """That a list is cut off: it ends at that `byte`, which is `where`."""
    return f"{name} is cut off: it ends at byte {byte}, {where}. Fetch it again, or mend its end"


def size_bytes(text: str) -> int:
    """How many bytes `text` has as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


class _Array:
    """An array on its way.

    Attributes:
        text: the part of it that is being read, up to `at`, after `before_bytes` that are done with.
        position: of the item that comes next.
        is_tried: whether several items were sought at once in this piece of the text.
    """

    def __init__(self, file: TextIO, name: object) -> None:
        self.file, self.name, self.position = file, name, 0
        self.text, self.at, self.before_bytes, self.ended = "", 0, 0, False
        self.is_tried = False

    def more(self) -> None:
        """Let go of what is read and take in the next piece; notes when there is none."""
        self.before_bytes += size_bytes(self.text[: self.at])
        piece = self.file.read(CHUNK_CHARACTERS)
        self.text, self.at, self.ended = self.text[self.at :] + piece, 0, not piece
        self.is_tried = False

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self.at = self.after_space(self.at)
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def after_space(self, at: int) -> int:
        """Where the white space ends, if there is some, that begins at `at`."""
        return _SPACE.match(self.text, at).end()  # type: ignore[union-attr]  # it also matches nothing

    def byte(self, at: int) -> int:
        """Where in the file, in bytes from its start, the character `at` of `text` stands."""
        return self.before_bytes + size_bytes(self.text[:at])


def _several(array: _Array, wanted: WantedColumns | None) -> tuple[Sequence[object], bool] | None:
    """The items from here to the last place that looks like the end of one, and whether others follow.

    None if it is no such place: one within an item may look like that too, so this is tried once for each piece.
    """
    array.peek()
    between = None if array.is_tried else _BETWEEN.search(array.text, array.at)
    array.is_tried = True
    if between is None:
        return None
    end = array.text.rfind(between.group()) + 1
    text = array.text[array.at : end]
    items = text_columns(text, between.group(), wanted) if wanted else None
    if items is None:
        items = _objects(text)
    if not items:
        return None
    array.at = end
    if 2 * end >= len(array.text):  # else a piece would be read for a few items, and what waits would grow
        array.more()  # so that what is begun here is one of the next several
    array.position += len(items)
    return items, _goes_on(array)


def _objects(text: str) -> list[object]:
    """The items of an array that stand in `text`; none where it is not just some of them."""
    try:
        return orjson.loads(f"[{text}]")
    except orjson.JSONDecodeError:
        return []


def _singly(array: _Array) -> tuple[list[object], bool]:
    """The items up to the end of this piece of the text, each read by itself, and whether others follow."""
    decoder, items, goes_on = json.JSONDecoder(), list[object](), True
    while goes_on and (array.is_tried or not items):
        items.append(_item(array, decoder))
        array.position += 1
        goes_on = _goes_on(array)
    return items, goes_on


def _goes_on(array: _Array) -> bool:
    """Whether there is another item, where the array then stands; else it stands at its `]`."""
    mark = array.peek()
    if not mark:
        where = f"after record {array.position - 1}, before the closing ']'"
        raise ConfigError(cut_off(array.name, array.byte(array.at), where))
    array.at += mark == ","
    return mark in ",{"


def _item(array: _Array, decoder: json.JSONDecoder) -> object:
    """The next item, up to the comma or the end after it, reading on until it is whole; `Malformed` if no JSON."""
    array.peek()
    while True:
        try:
            item, end = decoder.raw_decode(array.text, array.at)
        except json.JSONDecodeError as error:
            if not _is_unfinished(array.text[error.pos :].strip(), error.msg):
                return _passed_over(array, f"is not JSON at byte {array.byte(error.pos)}: {error.msg}")
        except (ValueError, RecursionError) as error:  # Python refuses whole numbers of thousands of digits
            return _passed_over(array, f"cannot be read: {error}")
        else:
            # A number near the end may go on in the next piece: "1", "1e" and "1e+" are one number so far.
            follow = _NUMBER_FOLLOW if isinstance(item, int | float) else 0
            after = array.after_space(end)
            mark = array.text[after : after + 1]
            if array.ended or (mark and end + follow < len(array.text)):
                return _followed(array, item, after)
        _read_on(array, "is cut off")


def _followed(array: _Array, item: object, after: int) -> object:
    """`item`, if a comma or the end is what follows at `after`, where the array then stands; else `Malformed`."""
    mark = array.text[after : after + 1]
    if mark in ",]":
        array.at = after
        return item
    why = f"is followed by {mark!r}, not by a comma, at byte {array.byte(after)}"
    if mark != "{":
        return _passed_over(array, why)
    begin, array.at = array.byte(array.at), after  # where another record begins
    return _broken(array, begin, why)


def _passed_over(array: _Array, why: str) -> Malformed:
    """What is said of the next item, after which the array then stands."""
    begin = array.byte(array.at)
    while (end := broken_end(array.text, array.at, array.ended)) is None:
        _read_on(array, f"{why}, and where it ends cannot be told")
    array.at = end
    return _broken(array, begin, why)


def _broken(array: _Array, begin: int, why: str) -> Malformed:
    return Malformed(detail=f"record {array.position}, at byte {begin}, {why}")


def _read_on(array: _Array, why: str) -> None:
    """Take in more of an item that is not whole, of which `why` is said if there is nothing more.

    Raises:
        ConfigError: there is nothing more, or it is too long.
    """
    which, begin = f"{array.name}: record {array.position}", array.byte(array.at)
    if array.ended:
        end = array.byte(len(array.text))
        raise ConfigError(f"{which} {why}: it starts at byte {begin}, and the file ends at byte {end}")
    if len(array.text) - array.at > MAX_RECORD_CHARACTERS:
        raise ConfigError(f"{which}, at byte {begin}, is longer than {MAX_RECORD_CHARACTERS} characters")
    array.more()


def _is_unfinished(rest: str, message: str) -> bool:
    """Whether the text just stops, rather than going on wrongly. `rest` is what the decoder did not take."""
    if not rest or message.startswith("Unterminated"):
        return True
    in_escape = message.startswith("Invalid \\") and len(rest) < _ESCAPE_CHARACTERS and '"' not in rest
    return in_escape or any(end.startswith(rest) for end in _VALUE_ENDS)
