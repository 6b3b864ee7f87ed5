"""Read a list of records, a few at a time: a JSON array, JSON lines, CSV, TSV or parquet.

Text may be compressed (gz, bz2, xz, zst). What makes the whole file unusable (it is cut off, is no list) is the
user's to mend and raises ConfigError; a single record that cannot be read is given back as `Broken`.

Records are cut out of JSON by orjson, many at a time, and by Python's decoder wherever orjson refuses: it says at
which byte a list ends, and reads what orjson calls no JSON (NaN, half a surrogate pair). They differ in one thing:
whole numbers beyond 64 bits, which become fractions.

Who needs but a few columns of text has these (`read_pieces`, `list_columns.py`).
"""

import csv
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

import orjson

from tasks.list_columns import BREAK, Wanted, batch_columns, names_in, parsed, text_columns
from tasks.packings import OPENERS
from tasks.resync import broken_end
from tinygptv_core.plain import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_CHARACTERS = 1 << 21
MAX_RECORD_CHARACTERS = 1 << 26
BATCH_ROWS = 10_000
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{")
_ARRAY = re.compile(r"\s*\[\s*\{")
# What an unfinished value may leave at the end of a text, as far as the decoder objects to it.
_VALUE_ENDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity", ".", "e+", "e-", "E+", "E-")
_ESCAPE_CHARACTERS = 12
_NUMBER_FOLLOW = 2


@dataclass(frozen=True, kw_only=True)
class Broken:
    """What is no record, or no value of one, and why."""

    detail: str


def read_list(path: Path) -> Iterator[object]:
    """Every record of the list at `path`, in order, in memory that does not grow with the list.

    Raises:
        ConfigError: there is no such file, it cannot be read, has no known format, or is cut off (says at which byte).
    """
    return READERS[_checked_form(path)](path)


def _checked_form(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; a list is one file ({', '.join(READERS)})")
    if not path.exists():
        raise ConfigError(f"there is no file {path}; give the path of a list ({', '.join(READERS)})")
    form = form_of(path)
    if path.stat().st_size == 0:
        raise ConfigError(f"{path} is empty; a list holds at least one record")
    return form


def read_pieces(path: Path, wanted: Wanted) -> Iterator[Sequence[object]]:
    """The records of `read_list`, some at a time: as the columns `wanted` where those can be had at once.

    Raises:
        ConfigError: as for `read_list`; of a Parquet file only the wanted columns are looked at.
    """
    form = _checked_form(path)
    if form == ".json":
        return _json_array(path, wanted)
    if form in JSON_LINES:
        return _json_lines(path, wanted)
    if form == ".parquet":
        return _parquet(path, wanted)
    records = READERS[form](path)
    return iter(lambda: list(islice(records, BATCH_ROWS)), [])


def form_of(path: Path) -> str:
    """The suffix that says how the list is written, that of its compression apart.

    Raises:
        ConfigError: it is not one of ours; says which there are.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in READERS:
        packed = ", ".join(OPENERS)
        raise ConfigError(
            f"{path} has no known format; a list's name ends in {', '.join(READERS)} (text also {packed})"
        )
    return suffixes[-1]


@contextmanager
def opened(path: Path, newline: str | None) -> Iterator[TextIO]:
    """`path` as text, unpacked where its name says that it is packed."""
    opener = OPENERS.get(path.suffix.lower())
    try:
        with opener(path) if opener else path.open("rb") as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise ConfigError(_cut_off(path, path.stat().st_size, "inside a character")) from None
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if not opener or isinstance(error, PermissionError):
            raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        raise ConfigError(f"{path} is cut off or damaged at or before byte {path.stat().st_size}: {error}") from None


def _cut_off(path: Path, byte: int, where: str) -> str:
    return f"{path} is cut off: it ends at byte {byte}, {where}. Fetch it again, or mend its end"


class _Window:
    """The part of a text that is being read: `text`, read up to `at`, after `before_bytes` that are done with."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.before_bytes, self.ended = file, "", 0, 0, False
        self.is_tried = False

    def more(self) -> None:
        """Let go of what is read and take in the next piece; notes when there is none."""
        self.before_bytes += _size_bytes(self.text[: self.at])
        piece = self.file.read(CHUNK_CHARACTERS)
        self.text, self.at, self.ended = self.text[self.at :] + piece, 0, not piece
        self.is_tried = False

    def several(self, wanted: Wanted | None) -> Sequence[object]:
        """The items from here to the last place that looks like the end of one; none if it is no such place.

        A place within an item may look like that too, so this is tried once for each piece of the text.
        """
        self.peek()
        between = None if self.is_tried else _BETWEEN.search(self.text, self.at)
        self.is_tried = True
        if between is None:
            return []
        end = self.text.rfind(between.group()) + 1
        text = self.text[self.at : end]
        items = text_columns(text, between.group(), wanted) if wanted else None
        if items is None:
            items = _objects(text)
        if items:
            self.at = end
            if 2 * end >= len(self.text):  # else a piece would be read for a few items, and what waits would grow
                self.more()  # so that what is begun here is one of the next several
        return items

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it also matches nothing
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def byte(self, at: int) -> int:
        """Where in the file, in bytes from its start, the character `at` of `text` stands."""
        return self.before_bytes + _size_bytes(self.text[:at])


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _objects(text: str) -> list[object]:
    """The items of an array that stand in `text`; none where it is not just some of them."""
    try:
        return orjson.loads(f"[{text}]")
    except orjson.JSONDecodeError:
        return []


def _json_array(path: Path, wanted: Wanted | None = None) -> Iterator[Sequence[object]]:
    """The items of the array, some at a time."""
    with opened(path, newline="") as file:
        window = _Window(file)
        opening = window.peek()
        if not opening:
            raise ConfigError(f"{path} is empty; a list holds at least one record")
        if opening != "[":
            raise ConfigError(
                f"{path} is not a list: it begins with {opening!r}, a JSON list with '['. "
                "A file with one record per line must be called .jsonl"
            )
        window.at += 1
        if window.peek() != "]":
            yield from _items(window, path, wanted)
        window.at += 1
        if window.peek():
            raise ConfigError(f"{path}: the list ends before byte {window.byte(window.at)}, but more follows")


def _items(window: _Window, path: Path, wanted: Wanted | None) -> Iterator[Sequence[object]]:
    """The same, up to the array's `]`, where the window then stands."""
    decoder, position, goes_on = json.JSONDecoder(), 0, True
    while goes_on:
        items = window.several(wanted)
        if items:
            goes_on = _goes_on(window, path, position + len(items))
        else:
            items, goes_on = _singly(window, decoder, path, position)
        yield items
        position += len(items)


def _singly(window: _Window, decoder: json.JSONDecoder, path: Path, position: int) -> tuple[list[object], bool]:
    """The items up to the end of this piece of the text, each read by itself, and whether others follow."""
    items, goes_on = list[object](), True
    while goes_on and (window.is_tried or not items):
        items.append(_item(window, decoder, path, position + len(items)))
        goes_on = _goes_on(window, path, position + len(items))
    return items, goes_on


def _goes_on(window: _Window, path: Path, position: int) -> bool:
    """Whether there is an item after the first `position`, where the window then stands."""
    mark = window.peek()
    if not mark:
        where = f"after record {position - 1}, before the closing ']'"
        raise ConfigError(_cut_off(path, window.byte(window.at), where))
    window.at += mark == ","
    return mark in ",{"


def _item(window: _Window, decoder: json.JSONDecoder, path: Path, position: int) -> object:
    """The next item, up to the comma or the end after it, reading on until it is whole; `Broken` if it is no JSON."""
    window.peek()
    while True:
        try:
            item, end = decoder.raw_decode(window.text, window.at)
        except json.JSONDecodeError as error:
            if not _is_unfinished(window.text[error.pos :].strip(), error.msg):
                why = f"is not JSON at byte {window.byte(error.pos)}: {error.msg}"
                return _passed_over(window, path, position, why)
        except (ValueError, RecursionError) as error:  # Python refuses whole numbers of thousands of digits
            return _passed_over(window, path, position, f"cannot be read: {error}")
        else:
            # A number near the end may go on in the next piece: "1", "1e" and "1e+" are one number so far.
            follow = _NUMBER_FOLLOW if isinstance(item, int | float) else 0
            after = _SPACE.match(window.text, end).end()  # type: ignore[union-attr]  # it also matches nothing
            mark = window.text[after : after + 1]
            if window.ended or (mark and end + follow < len(window.text)):
                return _followed(window, item, after, path, position)
        _read_on(window, f"{path}: record {position}", "is cut off")


def _followed(window: _Window, item: object, after: int, path: Path, position: int) -> object:
    """`item`, if a comma or the end is what follows at `after`, where the window then stands; else `Broken`."""
    mark = window.text[after : after + 1]
    if mark in ",]":
        window.at = after
        return item
    why = f"is followed by {mark!r}, not by a comma, at byte {window.byte(after)}"
    if mark != "{":
        return _passed_over(window, path, position, why)
    begin, window.at = window.byte(window.at), after  # where another record begins
    return Broken(detail=f"record {position}, at byte {begin}, {why}")


def _passed_over(window: _Window, path: Path, position: int, why: str) -> Broken:
    """What is said of the next item, after which the window then stands."""
    begin = window.byte(window.at)
    while (end := broken_end(window.text, window.at, window.ended)) is None:
        _read_on(window, f"{path}: record {position}", f"{why}, and where it ends cannot be told")
    window.at = end
    return Broken(detail=f"record {position}, at byte {begin}, {why}")


def _read_on(window: _Window, which: str, why: str) -> None:
    """Take in more of an item that is not whole, of which `why` is said if there is nothing more.

    Raises:
        ConfigError: there is nothing more, or it is too long.
    """
    if window.ended:
        begin, end = window.byte(window.at), window.byte(len(window.text))
        raise ConfigError(f"{which} {why}: it starts at byte {begin}, and the file ends at byte {end}")
    if len(window.text) - window.at > MAX_RECORD_CHARACTERS:
        begin = window.byte(window.at)
        raise ConfigError(f"{which}, at byte {begin}, is longer than {MAX_RECORD_CHARACTERS} characters")
    window.more()


def _is_unfinished(rest: str, message: str) -> bool:
    """Whether the text just stops, rather than going on wrongly. `rest` is what the decoder did not take."""
    if not rest or message.startswith("Unterminated"):
        return True
    in_escape = message.startswith("Invalid \\") and len(rest) < _ESCAPE_CHARACTERS and '"' not in rest
    return in_escape or any(end.startswith(rest) for end in _VALUE_ENDS)


def _json_lines(path: Path, wanted: Wanted | None = None) -> Iterator[Sequence[object]]:
    """The records of the lines, some at a time."""
    number, done_bytes = 0, 0
    with opened(path, newline="\n") as file:
        for text in _whole_lines(path, file):
            count = text.count("\n") + (not text.endswith("\n"))
            piece = text_columns(text.removesuffix("\n"), BREAK, wanted) if wanted else None
            if piece is None or len(piece) != count:  # an object may be set on several
                lines = io.StringIO(text, newline="\n").readlines()
                piece = list(_each_line(path, lines, number, done_bytes))
            yield piece
            number, done_bytes = number + count, done_bytes + _size_bytes(text)


def _whole_lines(path: Path, file: TextIO) -> Iterator[str]:
    """The text, some lines at a time.

    Raises:
        ConfigError: it is an array, or a line is too long.
    """
    waiting, done_bytes = "", 0
    while piece := file.read(CHUNK_CHARACTERS):
        waiting += piece
        if not done_bytes and _ARRAY.match(waiting):
            raise ConfigError(f"{path} is a JSON array, not one record per line; its name must end in .json")
        end = waiting.rfind("\n", len(waiting) - len(piece)) + 1
        if end:
            yield waiting[:end]
            done_bytes, waiting = done_bytes + _size_bytes(waiting[:end]), waiting[end:]
        if len(waiting) > MAX_RECORD_CHARACTERS:
            raise ConfigError(_too_long(path, f"the line that begins at byte {done_bytes}"))
    if waiting:
        yield waiting


def _too_long(path: Path, which: str) -> str:
    return f"{path}: {which} is longer than {MAX_RECORD_CHARACTERS} characters; is it a list?"


def _each_line(path: Path, lines: Sequence[str], number: int, done_bytes: int) -> Iterator[object]:
    """What each of `lines` holds, which come after `number` others of so many bytes."""
    for place, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            yield parsed(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                byte = done_bytes + _size_bytes("".join(lines))
                raise ConfigError(_cut_off(path, byte, "inside its last line")) from None
            yield Broken(detail=f"line {number + place} is not JSON: {error}")


def _separated(path: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[object]:
    csv.field_size_limit(MAX_RECORD_CHARACTERS)
    with opened(path, newline="") as file:
        reader = csv.reader(_lines(path, file), delimiter=delimiter, quoting=quoting, strict=True)
        names: list[str] = []
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    where = f"inside the quotes of the record before line {reader.line_num + 1}"
                    raise ConfigError(_cut_off(path, path.stat().st_size, where)) from None
                yield Broken(detail=f"line {reader.line_num}: {error}")
                continue
            if not names:
                names = fields
            elif len(fields) == len(names):
                yield dict(zip(names, fields, strict=True))
            elif fields:
                yield Broken(detail=f"line {reader.line_num} has other columns than the first")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Each line of the text.

    Raises:
        ConfigError: one is too long.
    """
    number = 0
    while line := file.readline(MAX_RECORD_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_RECORD_CHARACTERS:
            raise ConfigError(_too_long(path, f"line {number}"))
        yield line


def _parquet(path: Path, wanted: Wanted | None = None) -> Iterator[Sequence[object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = names_in(file.schema_arrow, wanted) if wanted else None
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(names.values()) if names else None):
                yield batch_columns(batch, names) if names else _rows(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        size = path.stat().st_size
        raise ConfigError(f"{path} ({size} bytes) cannot be read as parquet; it may be cut off: {error}") from None


def _rows(batch: "pa.RecordBatch") -> list[dict[str, object]]:
    """The rows of `batch`, where a value that Python has none for, such as a time after the year 9999, is `Broken`."""
    try:
        return batch.to_pylist()
    except (OverflowError, ValueError):
        columns = [[_value(cell) for cell in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _value(cell: "pa.Scalar") -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        raise
    except (OverflowError, ValueError) as error:
        return Broken(detail=f"a {cell.type} that cannot be read: {error}")


JSON_LINES = (".jsonl", ".ndjson")
SEPARATED = (".csv", ".tsv")

READERS: Mapping[str, Callable[[Path], Iterator[object]]] = {
    ".json": lambda path: chain.from_iterable(_json_array(path)),
    **dict.fromkeys(JSON_LINES, lambda path: chain.from_iterable(_json_lines(path))),
    ".csv": lambda path: _separated(path, ",", csv.QUOTE_MINIMAL),
    ".tsv": lambda path: _separated(path, "\t", csv.QUOTE_NONE),  # whose quotes are words like others
    ".parquet": lambda path: chain.from_iterable(_parquet(path)),
}
