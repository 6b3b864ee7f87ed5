"""A few columns of many records of a list at once: from Arrow's parser, wherever that reads what orjson would."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import orjson

if TYPE_CHECKING:
    import pyarrow as pa

BREAK = "}\n{"
"""What stands between two records on lines of their own."""

_NO_NUMBER = re.compile("Inf(?!inity|[a-z])")  # which only Arrow's parser calls one
_LONG_CHARACTERS = 400  # a line must be longer to hold more than one of these
_MOST_OPEN = 200
_MANY_DIGITS = re.compile("[0-9]{400}")


class Columns(Sequence[object]):
    """Some records of a list that follow each other, all of them objects, of which a table of some columns is at hand.

    Attributes:
        table: of the wanted columns; null where a record has none.
    """

    def __init__(self, table: "pa.Table", record: Callable[[int], object]) -> None:
        self.table, self._record = table, record

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, place: int) -> object: ...
    @overload
    def __getitem__(self, place: slice) -> list[object]: ...
    def __getitem__(self, place: int | slice) -> object:
        """A record, of which at least the wanted columns are there."""
        if isinstance(place, slice):
            return [self._record(one) for one in range(len(self))[place]]
        return self._record(range(len(self))[place])


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The columns that somebody needs: texts, and whole numbers."""

    texts: tuple[str, ...]
    numbers: tuple[str, ...] = ()


def text_columns(text: str, between: str, wanted: Wanted) -> Columns | None:
    """What stands in `text`, where it is objects and between each two of them just `between`; else None.

    Each object gets a line of its own. A line break within a text, or within an array, is an error to the parser; so if
    there are as many objects as lines, each line is one.
    """
    import pyarrow as pa
    from pyarrow import json as arrow_json

    is_like_objects = text.startswith("{") and text.endswith("}")  # Arrow's parser dies of a lone null
    lines = text.replace(between, BREAK)
    is_broken = "\n" in (text if "\n" not in between else text.replace(between, ""))
    if is_broken or not is_like_objects:
        return None
    schema = pa.schema(
        [*((name, pa.string()) for name in wanted.texts), *((name, pa.int64()) for name in wanted.numbers)]
    )
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    each = lines.split("\n")
    try:
        table = arrow_json.read_json(pa.BufferReader(lines.encode()), parse_options=options)
    except pa.ArrowException:
        return None
    if len(table) != len(each) or _NO_NUMBER.search(lines) or any(map(_is_odd, each)):
        return None
    return Columns(table, lambda place: parsed(each[place]))


def _is_odd(line: str) -> bool:
    """Whether Python may not read what Arrow's parser does: it has bounds on digits and on depth."""
    if len(line) < _LONG_CHARACTERS:
        return False
    return line.count("[") + line.count("{") > _MOST_OPEN or _MANY_DIGITS.search(line) is not None


def parsed(line: str) -> object:
    """What the line holds, as JSON. Raises ValueError and RecursionError as Python's decoder does."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


def names_in(schema: "pa.Schema", wanted: Wanted) -> list[str] | None:
    """The names of the wanted columns, if the texts are there as texts."""
    import pyarrow as pa

    once = [name for name in schema.names if schema.names.count(name) == 1]
    are_texts = all(name in once and schema.field(name).type == pa.string() for name in wanted.texts)
    return [*wanted.texts, *(name for name in wanted.numbers if name in once)] if are_texts else None


def batch_columns(batch: "pa.RecordBatch") -> Columns:
    """Rows of Parquet. Raises pa.ArrowInvalid where a text is no UTF-8."""
    import pyarrow as pa

    batch.validate(full=True)  # whether a text is one is looked at here alone
    table = pa.Table.from_batches([batch])
    return Columns(table, lambda place: table.slice(place, 1).to_pylist()[0])
