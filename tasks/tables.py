"""The tables that the data steps hand on: their rows as types, parquet files without wall clock, and counts.

Whatever goes into a step comes out as a row that is kept or as a drop with a reason; the counts say so.
"""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from tasks.quantities import counted
from tinygptv_core.plain import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_FILE = "rows.parquet"
DROPPED_FILE = "dropped.parquet"
LEDGER_FILE = "ledger.parquet"
COUNTS_FILE = "counts.json"

KEPT = "ok"
"""The fate of a row that goes on; any other is the reason of its drop."""

GROUP_ROWS = 100_000
READ_ROWS = 10_000
SIZE = ("width", "height")
DISTINCT = frozenset({"key", "url", "name", "sha256"})
"""The columns in which hardly two rows say the same, so that a dictionary would only take time and room."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One sample to be: where its picture is (`url`, `file`, or neither for text) and what is said, as JSON.

    `width` and `height` are the picture's in pixels, where the list says them; a table has these columns only
    if its recipe names them.
    """

    key: str
    url: str | None
    file: str | None
    turns: str
    split: str | None
    group: str | None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, kw_only=True)
class Drop:
    """One row that goes no further, and why: `reason` is counted, `detail` is for people."""

    key: str
    url: str | None
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """What became of one row in fetch: `fate` is "ok" or the reason of the drop.

    `sha256` is of the bytes as fetched; `width` and `height` are the picture's as fetched, in pixels.
    All three are None where there is no picture.
    """

    key: str
    url: str | None
    fate: str
    detail: str
    sha256: str | None
    width: int | None
    height: int | None


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """One file of a picture set: `fate` is "ok" or why it is left out.

    `tar` (its number), `offset` and `size` say where its bytes lie; the rest is as in a ledger. None where there is
    no picture.
    """

    name: str
    fate: str
    detail: str
    tar: int | None
    offset: int | None
    size: int | None
    sha256: str | None
    width: int | None
    height: int | None


R = TypeVar("R", TableRow, Drop, LedgerRow, PictureRow)


def columns_of(rows: Sequence[object], kind: type, optional: Collection[str]) -> "pa.Table":
    """Rows of type `kind` as columns, one for each field that has no default or is one of `optional`."""
    import pyarrow as pa

    types = {str: pa.string(), str | None: pa.string(), int | None: pa.int32()}
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind) if f.default is MISSING or f.name in optional]
    schema = pa.schema([(name, types[hints[name]]) for name in names])
    return pa.table({name: [getattr(row, name) for row in rows] for name in names}, schema=schema)


class TableWriter(Generic[R]):
    """Rows of one type into one parquet file, equal bytes for equal rows, however they are handed over.

    A field that has a default is a column only if it is one of `optional`. A thread of its own encodes and writes.
    """

    def __init__(self, path: Path, kind: type[R], optional: Collection[str] = ()) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.kind, self.optional = kind, optional
        self.names = columns_of((), kind, optional).column_names
        repeated = [name for name in self.names if name not in DISTINCT]
        schema = columns_of((), kind, optional).schema
        self.file = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeated)  # type: ignore[arg-type]  # or names
        self.rows: list[R] = []
        self.tables: list[pa.Table] = []
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def write(self, row: R) -> None:
        """Add `row` at the end."""
        self.rows.append(row)
        if len(self.rows) == READ_ROWS:
            self._take_rows()

    def write_table(self, table: "pa.Table") -> None:
        """Add the rows of `table`, which has the columns of this one, at the end."""
        self._take_rows()
        self.tables.append(table.select(self.names))
        if sum(map(len, self.tables)) >= GROUP_ROWS:
            self._flush(GROUP_ROWS)

    def _take_rows(self) -> None:
        if self.rows:
            rows, self.rows = self.rows, []
            self.write_table(columns_of(rows, self.kind, self.optional))

    def _flush(self, at_least: int) -> None:
        """Hand on what waits, in groups of `GROUP_ROWS`, until fewer than `at_least` rows do."""
        import pyarrow as pa

        waiting = pa.concat_tables(self.tables)
        while len(waiting) >= at_least:
            self._wait()
            self.writing = self.thread.submit(self._write_group, waiting.slice(0, GROUP_ROWS))
            waiting = waiting.slice(GROUP_ROWS)
        self.tables = [waiting]

    def _write_group(self, group: "pa.Table") -> None:
        self.file.write_table(group.combine_chunks())

    def _wait(self) -> None:
        if self.writing:
            self.writing.result()

    def __enter__(self) -> "TableWriter[R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.file, self.thread:
            if error is None:
                self._take_rows()
                if any(map(len, self.tables)):
                    self._flush(1)
                self._wait()


def read_table(path: Path, kind: type[R]) -> Iterator[R]:
    """The rows of a parquet file that `TableWriter` wrote, a group at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [f.name for f in fields(kind) if f.default is MISSING or f.name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=READ_ROWS, columns=names):
            columns = [batch.column(name).to_pylist() for name in names]
            for values in zip(*columns, strict=True):
                yield kind(**dict(zip(names, values, strict=True)))


def compute() -> Any:
    """pyarrow's functions on columns, which it makes when it is imported, where no type checker sees them."""
    import pyarrow.compute

    return pyarrow.compute


def num_rows(path: Path) -> int:
    """How many rows a parquet file holds."""
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


@dataclass(kw_only=True)
class Tally:
    """Counts what a step keeps and drops."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def count(self, fate: str) -> None:
        """Count one row, which is kept, or dropped for the reason `fate`."""
        if fate == KEPT:
            self.kept += 1
        else:
            self.dropped[fate] += 1

    def write(self, folder: Path, rows: int, beside: str = "") -> None:
        """`counts.json` of a step that was given `rows` rows and is to leave some.

        Args:
            beside: said beside the reasons where nothing is left.

        Raises:
            ConfigError: nothing is left.
            AssertionError: a row is neither kept nor dropped, or counted twice.
        """
        if not self.kept:
            raise ConfigError(
                f"of {counted(rows, 'row')} none is left. Why they were dropped: {self.reasons()}{beside}"
            )
        self.write_any(folder, rows)

    def write_any(self, folder: Path, rows: int) -> None:
        """`counts.json` of a step that was given `rows` rows and may have dropped them all.

        Raises:
            AssertionError: a row is neither kept nor dropped, or counted twice.
        """
        assert rows == self.kept + self.dropped.total(), f"{rows} rows in, but {self.kept} kept, {self.dropped} dropped"
        counts = {"rows": rows, "kept": self.kept, "dropped": dict(sorted(self.dropped.items()))}
        (folder / COUNTS_FILE).write_text(json.dumps(counts, indent=1) + "\n")

    def reasons(self) -> str:
        """The drops in words, the most frequent first."""
        ordered = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{reason} {count}" for reason, count in ordered) or "there was none"


def read_counts(folder: Path) -> dict[str, Any]:
    """`counts.json` of an artifact."""
    return json.loads((folder / COUNTS_FILE).read_text())


def data_counts(*folders: Path) -> Mapping[str, Any]:
    """What became of a data set's records in its artifacts together, in their order: `{"rows", "kept", "dropped"}`.

    Raises:
        AssertionError: the artifacts are not of one chain, or a row is missing.
    """
    counts = [read_counts(folder) for folder in folders]
    for before, after in pairwise(counts):
        assert before["kept"] == after["rows"], f"{before['kept']} rows went on, {after['rows']} came in"
    dropped: Counter[str] = Counter()
    for count in counts:
        dropped.update(count["dropped"])
    first, last = counts[0]["rows"], counts[-1]["kept"]
    assert first == last + dropped.total(), f"{first} rows in, but {last} kept and {dropped.total()} dropped"
    return {"rows": first, "kept": last, "dropped": dict(sorted(dropped.items()))}


def clear(folder: Path) -> None:
    """Remove what a killed build left in `folder`; a step that is quickly done starts afresh."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
