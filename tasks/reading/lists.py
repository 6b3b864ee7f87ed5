"""Read a list of records, a few at a time: a JSON array, JSON lines, CSV, TSV or parquet.

Text may be compressed (gz, bz2, xz, zst). What makes the whole file unusable (it is cut off, is no list) is the
user's to mend and raises ConfigError; a single record that cannot be read is given back as `Malformed`.

Who needs but a few columns of text has these (`read_pieces`, `list_columns.py`). An array is cut into its records in
`json_arrays.py`.
"""

import csv
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from tasks.reading.compression import OPENERS
from tasks.reading.json_arrays import (
    CHUNK_CHARACTERS,
    MAX_RECORD_CHARACTERS,
    Malformed,
    cut_off,
    read_array,
    size_bytes,
)
from tasks.reading.list_columns import BREAK, WantedColumns, batch_columns, names_in, parsed, text_columns
from tinygptv_core.plain import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 10_000
_ARRAY = re.compile(r"\s*\[\s*\{")


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
    form = list_form(path)
    if path.stat().st_size == 0:
        raise ConfigError(f"{path} is empty; a list holds at least one record")
    return form


def read_pieces(path: Path, wanted: WantedColumns) -> Iterator[Sequence[object]]:
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


def list_form(path: Path) -> str:
    """The suffix that says how the list is written, that of its compression apart.

    Raises:
        ConfigError: it is not one of ours; says which there are.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in READERS:
        raise ConfigError(f"{path} has no known format; a list's name ends in {ENDINGS}")
    return suffixes[-1]


@contextmanager
def opened_text(path: Path, newline: str | None) -> Iterator[TextIO]:
    """`path` as text, unpacked where its name says that it is packed.

    Raises:
        ConfigError: it cannot be read, is no UTF-8, or is cut off or damaged; also while the block reads.
    """
    opener = OPENERS.get(path.suffix.lower())
    try:
        with opener(path) if opener else path.open("rb") as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise ConfigError(cut_off(path, path.stat().st_size, "inside a character")) from None
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if not opener or isinstance(error, PermissionError):
            raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        raise ConfigError(f"{path} is cut off or damaged at or before byte {path.stat().st_size}: {error}") from None


def _json_array(path: Path, wanted: WantedColumns | None = None) -> Iterator[Sequence[object]]:
    """The items of the array, some at a time."""
    with opened_text(path, newline="") as file:
        yield from read_array(file, path, wanted)


def _json_lines(path: Path, wanted: WantedColumns | None = None) -> Iterator[Sequence[object]]:
    """The records of the lines, some at a time."""
    number, done_bytes = 0, 0
    with opened_text(path, newline="\n") as file:
        for text in _whole_lines(path, file):
            count = text.count("\n") + (not text.endswith("\n"))
            piece = text_columns(text.removesuffix("\n"), BREAK, wanted) if wanted else None
            if piece is None or len(piece) != count:  # an object may be set on several
                lines = io.StringIO(text, newline="\n").readlines()
                piece = list(_each_line(path, lines, number, done_bytes))
            yield piece
            number, done_bytes = number + count, done_bytes + size_bytes(text)


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
            done_bytes, waiting = done_bytes + size_bytes(waiting[:end]), waiting[end:]
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
                byte = done_bytes + size_bytes("".join(lines))
                raise ConfigError(cut_off(path, byte, "inside its last line")) from None
            yield Malformed(detail=f"line {number + place} is not JSON: {error}")


def _separated(path: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[object]:
    csv.field_size_limit(MAX_RECORD_CHARACTERS)
    with opened_text(path, newline="") as file:
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
                    raise ConfigError(cut_off(path, path.stat().st_size, where)) from None
                yield Malformed(detail=f"line {reader.line_num}: {error}")
                continue
            if not names:
                names = _column_names(path, fields)
            elif len(fields) == len(names):
                yield dict(zip(names, fields, strict=True))
            elif fields:
                yield Malformed(detail=f"line {reader.line_num} has other columns than the first")


def _column_names(path: Path, first: Sequence[str]) -> list[str]:
    """The names in the first line of a table.

    Raises:
        ConfigError: two columns have one, of which the first would be lost.
    """
    names = [name.strip() for name in first]
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise ConfigError(f"{path} has several columns called {', '.join(twice)}; give each a name of its own")
    return names


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


def _parquet(path: Path, wanted: WantedColumns | None = None) -> Iterator[Sequence[object]]:
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
    """The rows of `batch`; a value that Python has none for, such as a time after the year 9999, is `Malformed`."""
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
        return Malformed(detail=f"a {cell.type} that cannot be read: {error}")


JSON_LINES = (".jsonl", ".ndjson")
SEPARATED = (".csv", ".tsv")

READERS: Mapping[str, Callable[[Path], Iterator[object]]] = {
    ".json": lambda path: chain.from_iterable(_json_array(path)),
    **dict.fromkeys(JSON_LINES, lambda path: chain.from_iterable(_json_lines(path))),
    ".csv": lambda path: _separated(path, ",", csv.QUOTE_MINIMAL),
    ".tsv": lambda path: _separated(path, "\t", csv.QUOTE_NONE),  # whose quotes are words like others
    ".parquet": lambda path: chain.from_iterable(_parquet(path)),
}
ENDINGS = f"{', '.join(READERS)} (text also {', '.join(OPENERS)})"
"""How the name of a list may end, in words."""
