"""Read a list of records, a few at a time: a JSON array, JSON lines, CSV, TSV or parquet.

Text may be gzipped. What makes the whole file unusable (it is cut off, is no list) is the user's to
mend and raises ConfigError; a single line that cannot be read is given back as `Broken`.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from tinygptv_core.plain import ConfigError

CHUNK_CHARACTERS = 1 << 18
MAX_RECORD_CHARACTERS = 1 << 26
BATCH_ROWS = 10_000
_SPACE = re.compile(r"[ \t\n\r]*")
# What an unfinished value may leave at the end of a text, as far as the decoder objects to it.
_VALUE_ENDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity", ".", "e+", "e-", "E+", "E-")
_ESCAPE_CHARACTERS = 12


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A line that is no record, and why."""

    detail: str


def read_list(path: Path) -> Iterator[object]:
    """Every record of the list at `path`, in order, in memory that does not grow with the list.

    Raises:
        ConfigError: there is no such file, it cannot be read, has no known format, or is cut off (says at which byte).
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; a list is one file ({', '.join(READERS)})")
    if not path.exists():
        raise ConfigError(f"there is no file {path}; give the path of a list ({', '.join(READERS)})")
    form = form_of(path)
    if path.stat().st_size == 0:
        raise ConfigError(f"{path} is empty; a list holds at least one record")
    yield from READERS[form](path)


def form_of(path: Path) -> str:
    """The suffix that says how the list is written, `.gz` apart.

    Raises:
        ConfigError: it is not one of ours; says which there are.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    if not suffixes or suffixes[-1] not in READERS:
        raise ConfigError(f"{path} has no known format; a list's name ends in {', '.join(READERS)} (text also in .gz)")
    return suffixes[-1]


@contextmanager
def _opened(path: Path, newline: str | None) -> Iterator[TextIO]:
    """`path` as text, unzipped where its name ends in .gz."""
    try:
        opener = gzip.open if path.suffix.lower() == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise ConfigError(_cut_off(path, path.stat().st_size, "inside a character")) from None
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path} is cut off or damaged at or before byte {path.stat().st_size}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def _cut_off(path: Path, byte: int, where: str) -> str:
    return f"{path} is cut off: it ends at byte {byte}, {where}. Fetch it again, or mend its end"


class _Window:
    """The part of a text that is being read: `text`, read up to `at`, after `before_bytes` that are done with."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.before_bytes, self.ended = file, "", 0, 0, False

    def more(self) -> None:
        """Let go of what is read and take in the next piece; notes when there is none."""
        self.before_bytes += len(self.text[: self.at].encode())
        piece = self.file.read(CHUNK_CHARACTERS)
        self.text, self.at, self.ended = self.text[self.at :] + piece, 0, not piece

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it also matches nothing
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def byte(self, at: int) -> int:
        """Where in the file, in bytes from its start, the character `at` of `text` stands."""
        return self.before_bytes + len(self.text[:at].encode())


def _json_array(path: Path) -> Iterator[object]:
    with _opened(path, newline="") as file:
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
            yield from _items(window, path)
        window.at += 1
        if window.peek():
            raise ConfigError(f"{path}: the list ends before byte {window.byte(window.at)}, but more follows")


def _items(window: _Window, path: Path) -> Iterator[object]:
    """The items of an array up to its `]`, where the window then stands."""
    decoder, position = json.JSONDecoder(), 0
    while True:
        yield _item(window, decoder, f"{path}: record {position}")
        mark = window.peek()
        if mark == "]":
            return
        if not mark:
            raise ConfigError(
                _cut_off(path, window.byte(window.at), f"after record {position}, before the closing ']'")
            )
        if mark != ",":
            raise ConfigError(
                f"{path}: byte {window.byte(window.at)}, after record {position}, is {mark!r}, not a comma"
            )
        window.at, position = window.at + 1, position + 1


def _item(window: _Window, decoder: json.JSONDecoder, where: str) -> object:
    """The next item, reading on until it is whole."""
    window.peek()
    while True:
        try:
            item, end = decoder.raw_decode(window.text, window.at)
        except RecursionError:
            raise ConfigError(f"{where}, at byte {window.byte(window.at)}, is nested too deeply") from None
        except json.JSONDecodeError as error:
            _may_go_on(window, error, where)
        except ValueError as error:  # Python refuses whole numbers of thousands of digits
            raise ConfigError(f"{where}, at byte {window.byte(window.at)}, cannot be read: {error}") from None
        else:
            # A number at the very end may go on in the next piece.
            if end < len(window.text) or window.ended:
                window.at = end
                return item
        window.more()


def _may_go_on(window: _Window, error: json.JSONDecodeError, where: str) -> None:
    """Return if what is not read yet could mend `error`.

    Raises:
        ConfigError: it could not, or there is nothing more.
    """
    unfinished = _is_unfinished(window.text[error.pos :].strip(), error.msg)
    if unfinished and window.ended:
        byte, start = window.byte(len(window.text)), window.byte(window.at)
        raise ConfigError(f"{where} is cut off: it starts at byte {start}, and the file ends at byte {byte}")
    if not unfinished:
        raise ConfigError(f"{where} is not JSON at byte {window.byte(error.pos)}: {error.msg}")
    if len(window.text) - window.at > MAX_RECORD_CHARACTERS:
        raise ConfigError(
            f"{where}, at byte {window.byte(window.at)}, is longer than {MAX_RECORD_CHARACTERS} characters"
        )


def _is_unfinished(rest: str, message: str) -> bool:
    """Whether the text just stops, rather than going on wrongly. `rest` is what the decoder did not take."""
    if not rest or message.startswith("Unterminated"):
        return True
    in_escape = message.startswith("Invalid \\") and len(rest) < _ESCAPE_CHARACTERS
    return in_escape or any(end.startswith(rest) for end in _VALUE_ENDS)


def _json_lines(path: Path) -> Iterator[object]:
    done_bytes = 0
    with _opened(path, newline="\n") as file:
        for line in file:
            done_bytes += len(line.encode())
            if line.isspace():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith("\n"):
                    raise ConfigError(_cut_off(path, done_bytes, "inside its last line")) from None
                yield Broken(detail=f"not JSON: {error}")


def _separated(path: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[object]:
    csv.field_size_limit(MAX_RECORD_CHARACTERS)
    with _opened(path, newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    where = f"inside the quotes of the record before line {reader.line_num + 1}"
                    raise ConfigError(_cut_off(path, path.stat().st_size, where)) from None
                yield Broken(detail=f"line {reader.line_num}: {error}")
                continue
            surplus = None in record or None in record.values()
            yield Broken(detail=f"line {reader.line_num} has other columns than the first") if surplus else record


def _parquet(path: Path) -> Iterator[object]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        size = path.stat().st_size
        raise ConfigError(f"{path} ({size} bytes) cannot be read as parquet; it may be cut off: {error}") from None


READERS: Mapping[str, Callable[[Path], Iterator[object]]] = {
    ".json": _json_array,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": lambda path: _separated(path, ",", csv.QUOTE_MINIMAL),
    ".tsv": lambda path: _separated(path, "\t", csv.QUOTE_NONE),  # whose quotes are words like others
    ".parquet": _parquet,
}
