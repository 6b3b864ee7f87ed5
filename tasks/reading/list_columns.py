"""A few columns of many records of a list at once, wherever the records are written alike."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import orjson

from tasks.reading.bytewise import has_byte, texts_between
from tasks.tables import compute

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BREAK = "}\n{"
"""What stands between two records on lines of their own."""

_QUOTE, _BACKSLASH, _SPACE = b'"\\ '
_MOST_BYTES = 1 << 31


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
class WantedColumns:
    """The columns that somebody needs: texts, and whole numbers."""

    texts: tuple[str, ...]
    numbers: tuple[str, ...] = ()


OTHER_NAMES: Mapping[str, str] = {"caption": "text"}
"""As LAION's own files call it."""


def named(names: Collection[str], wanted: WantedColumns) -> dict[str, str]:
    """Wanted column -> which of the `names` it has: its own; or, where not all texts have theirs, in another case.

    A column whose name is not to be told has its own, which is not there then.
    """
    columns = (*wanted.texts, *wanted.numbers)
    if all(name in names for name in wanted.texts):
        return dict(zip(columns, columns, strict=True))
    return {column: _name_of(column, names) for column in columns}


def _name_of(column: str, names: Collection[str]) -> str:
    found = names_for(column, names)
    return found[0] if len(found) == 1 else column


def names_for(column: str, names: Collection[str]) -> list[str]:
    """Which of the `names` a column may have where not all texts have theirs; several leave it open."""
    alike = [name for name in names if name.lower() == column.lower()]
    others = [name for name in names if name.lower() == OTHER_NAMES.get(column)]
    return [column] if column in names else alike or others


class _Alike:
    """The bytes of objects that are said to hold the same names and under each a text, cut at these texts.

    Attributes:
        edges: where each text of each object begins and ends, int32, between 0 and the end of all.
    """

    def __init__(self, data: bytes, quotes: "np.ndarray", first: bytes, between: bytes, columns: int) -> None:
        """`first` is the first of the objects, with so many `columns`."""
        import numpy as np

        self.data, self.columns = data, columns
        self.edges = np.zeros(len(quotes) // 2 + 2, dtype=np.int32)
        self.edges[1:-1:2], self.edges[2:-1:2], self.edges[-1] = quotes[2::4] + 1, quotes[3::4], len(data)
        head, self.tail = data[: self.edges[1]], first[self.edges[2 * columns] :]
        self.joint = self.tail[:-1] + between + head[1:]
        ends = self.edges[2 * columns : -1 : 2 * columns]
        self.begins = np.append(0, ends[:-1] + len(self.joint) - len(head))
        self.stops = ends + len(self.tail)

    def _each(self, part: int) -> "pa.StringArray":
        """Of each object the text of a column (odd), or what stands before it (even)."""
        step = 2 * self.columns
        return texts_between(self.data, self.edges[part:-2:step], self.edges[part + 1 : -1 : step])

    def are_alike(self) -> bool:
        """Whether the same stands around the texts of all objects, and in no text a control character."""
        import numpy as np

        controls = np.flatnonzero(np.frombuffer(self.data, dtype=np.uint8) < _SPACE)
        is_in_text = np.searchsorted(self.edges, controls, side="right") % 2 == 0
        if is_in_text.any() or self.data[self.edges[-2] :] != self.tail:
            return False
        pc = compute()
        first, *others = (self._each(2 * column) for column in range(self.columns))
        expected = [(first[1:], self.joint.decode()), *((texts, texts[0]) for texts in others)]
        return all(pc.all(pc.equal(texts, text), min_count=0).as_py() for texts, text in expected)

    def record(self, place: int) -> Any:
        """One of the objects."""
        return parsed(self.data[self.begins[place] : self.stops[place]])

    def table(self, names: Sequence[str], wanted: Mapping[str, str]) -> "pa.Table":
        """The columns that are `wanted`, under which of these `names` they stand.

        Raises:
            ValueError: an object has an escape that is none, or half a surrogate pair.
        """
        import numpy as np
        import pyarrow as pa

        is_spelled = has_byte(np.append(self.begins, len(self.data)), self.data, _BACKSLASH)
        spelled = [self.record(place) for place in np.flatnonzero(is_spelled).tolist()]

        def column(name: str) -> "pa.Array":
            if name not in names:
                return pa.nulls(len(self.begins), pa.string())
            texts = self._each(2 * names.index(name) + 1)
            if not spelled:
                return texts
            read = pa.array([record[name] for record in spelled], pa.string())
            return compute().replace_with_mask(texts, pa.array(is_spelled), read)

        return pa.table({name: column(there) for name, there in wanted.items()})


def text_columns(text: str, between: str, wanted: WantedColumns) -> Columns | None:
    """Columns of the objects in `text`, where all are written like the first, with just `between` each two; else None.

    The first begins where `text` does and holds nothing but texts, as in lists of links and captions. Then all quotes
    but the escaped ones are the edges of texts, and if the same stands around the texts of all objects, they are as
    good JSON as the first; they may go over several lines. One with a backslash is read by itself.
    """
    data, separator = text.encode(), between.encode()
    example = data[: data.find(separator) + 1] or data
    try:
        first = orjson.loads(example)
    except orjson.JSONDecodeError:
        return None
    is_flat = isinstance(first, dict) and first and all(isinstance(value, str) for value in first.values())
    if not is_flat or not data.startswith(b"{") or len(data) >= _MOST_BYTES:
        return None
    names = named(first, wanted)
    if any(names.pop(name) in first for name in wanted.numbers):
        return None
    quotes = _quotes(data)
    if len(quotes) % (4 * len(first)):
        return None
    objects = _Alike(data, quotes, example, separator, len(first))
    try:
        return Columns(objects.table(list(first), names), objects.record) if objects.are_alike() else None
    except ValueError:
        return None


def _quotes(data: bytes) -> "np.ndarray":
    """Where the quotes are that no backslash escapes. Backslashes count in pairs, from the left, as JSON has them."""
    import numpy as np

    if b"\\" in data:
        data = data.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    return np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _QUOTE)


def parsed(line: str | bytes) -> object:
    """What the line holds, as JSON. Raises ValueError and RecursionError as Python's decoder does."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


def names_in(schema: "pa.Schema", wanted: WantedColumns) -> dict[str, str] | None:
    """The wanted columns that are there, each with its name there, if the texts are there as texts.

    A column of times, lists ... holds no number that is wanted, and perhaps a value that Python has none for.
    """
    import pyarrow as pa

    once = [name for name in schema.names if schema.names.count(name) == 1]
    names = named(schema.names, wanted)
    texts = {column: names[column] for column in wanted.texts}
    numbers = {column: names[column] for column in wanted.numbers if names[column] in once}
    numbers = {column: name for column, name in numbers.items() if _may_be_numbers(schema.field(name).type)}
    are_texts = all(name in once and schema.field(name).type == pa.string() for name in texts.values())
    return texts | numbers if are_texts else None


def _may_be_numbers(form: "pa.DataType") -> bool:
    """Whether values of that type are numbers, or texts that may spell them."""
    import pyarrow as pa

    form = form.value_type if isinstance(form, pa.DictionaryType) else form
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    return any(is_kind(form) for is_kind in kinds)


def batch_columns(batch: "pa.RecordBatch", names: Mapping[str, str]) -> Columns:
    """Rows of Parquet, their columns called as `names` says. Raises pa.ArrowInvalid where a text is no UTF-8."""
    import pyarrow as pa

    batch.validate(full=True)  # whether a text is one is looked at here alone
    table = pa.Table.from_batches([batch]).select(list(names.values())).rename_columns(list(names))
    return Columns(table, lambda place: table.slice(place, 1).to_pylist()[0])
