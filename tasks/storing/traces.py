"""Where a picture went: the rows of the ledgers that name it, and what was trained, scored and registered with them.

The ledgers are read in columns, each once for what is asked and once for rows that have the same bytes.
"""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.evaluate import EVALUATE
from tasks.filter import is_below
from tasks.filtering.removals import Removals
from tasks.hosts import hosts_of
from tasks.registering.registry import Version
from tasks.screen import SCREEN
from tasks.sealed import MANIFEST
from tasks.storing.lineage import chain, roots_of
from tasks.storing.records import Record, Records
from tasks.tables import DROPPED_FILE, KEPT, LEDGER_FILE, compute
from tasks.train import TRAIN
from tinygptv_core.artifact import sha256_of_file
from tinygptv_core.plain import ConfigError, from_plain
from tinygptv_core.stage import Stage

if TYPE_CHECKING:
    import pyarrow as pa

SHARDS = "shards"
SAME_BYTES = "same bytes"
COLUMNS = ["key", "url", "fate", "sha256"]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """A ledger, the digests of the **shards** that have it (a segment may be all that a fetch joined), and their data
    sets, as far as records say."""

    path: Path
    shards: tuple[str, ...]
    data: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a ledger that is asked about.

    Attributes:
        row: its place in the ledger, from 0.
        by: `url`, `host` or `sha256`, as it was asked for; or that it has the same bytes as such a row.
    """

    ledger: Ledger
    row: int
    key: str
    url: str | None
    fate: str
    sha256: str | None
    by: str


@dataclass(frozen=True, kw_only=True)
class PictureUse:
    """A step whose input had some of the pictures.

    Attributes:
        rows: place in `Traces.rows` -> the steps of training (1, 2, ...) that drew it; None where that cannot be said,
            or is not asked of such a step.
        held_out: those of the rows that only the loss was measured on.
    """

    record: Record
    rows: Mapping[int, tuple[int, ...] | None]
    held_out: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A registered version, and the places in `Traces.rows` of what it has to do with.

    Attributes:
        trained: in the mix of a stage that it came from; drawn, where that can be said.
        asked: an evaluation that it came from asks about it.
        named: a ledger that it came from names it; all of the others are among these.
    """

    version: Version
    trained: frozenset[int]
    asked: frozenset[int]
    named: frozenset[int]


class Traces:
    """What became of the pictures that `wanted` names, as far as the records of a home go."""

    def __init__(self, records: Records, wanted: Removals) -> None:
        self.records = records
        ledgers = _ledgers(records)
        asked = RemovalMatcher(wanted)
        named = [row for ledger in ledgers for row in matching(ledger, asked)]
        known = {(row.ledger.path, row.row) for row in named}
        bytes_of = frozenset(row.sha256 for row in named if row.sha256)
        same = SameBytesMatcher(bytes_of)
        alike = [row for ledger in ledgers for row in matching(ledger, same)] if bytes_of else []
        self.rows = (*named, *(row for row in alike if (row.ledger.path, row.row) not in known))

    @cached_property
    def screened(self) -> Mapping[str, Mapping[int, str]]:
        """Digest of an index -> place in `rows` of a picture -> `ok`, or the reason why it does not stay."""
        found: dict[str, Mapping[int, str]] = {}
        for record in self.records.all:
            if record.step == SCREEN.name and (places := self._kept.get(record.inputs.get(SHARDS) or "")):
                found[record.digest] = self._fates(record, places)
        return found

    @cached_property
    def _kept(self) -> Mapping[str, list[int]]:
        """Digest of shards -> the places in `rows` of those pictures that they hold."""
        found: dict[str, list[int]] = {}
        for at, row in enumerate(self.rows):
            for digest in row.ledger.shards if row.fate == KEPT else ():
                found.setdefault(digest, []).append(at)
        return found

    def _fates(self, record: Record, places: Sequence[int]) -> dict[int, str]:
        folder = self.records.folder(record.digest)
        if folder is None:
            return {}
        import pyarrow.parquet as pq

        keys, reasons = _value_set(frozenset(self.rows[at].key for at in places)), dict[str, str]()
        with pq.ParquetFile(folder / DROPPED_FILE) as file:
            for group in range(file.num_row_groups):
                dropped = file.read_row_group(group, columns=["key", "reason"])
                asked = dropped.filter(compute().is_in(dropped.column("key"), value_set=keys))
                reasons |= {row["key"]: row["reason"] for row in asked.to_pylist()}
        return {at: reasons.get(self.rows[at].key, KEPT) for at in places}

    @cached_property
    def reads(self) -> tuple[PictureUse, ...]:
        """Every step that had some of the pictures in its input, but for those that the index keeps out of it."""
        found = [self._read(record) for record in self.records.all]
        return tuple(read for read in found if read is not None)

    def _read(self, record: Record) -> PictureUse | None:
        rows: dict[int, tuple[int, ...] | None] = {}
        held_out: set[int] = set()
        for role, digest in record.inputs.items():
            kind, _, data = role.partition(".")
            places = self._kept.get(digest or "", []) if kind == SHARDS else []
            index = record.inputs.get(f"index.{data}")
            if index and places:
                fates = self.screened.get(index, {})
                places = [at for at in places if fates.get(at, KEPT) == KEPT]
            rows |= dict.fromkeys(places)
            if places and index and record.step == TRAIN.name:
                drawn, kept_out = self._drawn(record, data, index, places)
                rows |= drawn
                held_out |= kept_out
        return PictureUse(record=record, rows=rows, held_out=frozenset(held_out)) if rows else None

    def _drawn(
        self, record: Record, data: str, index: str, places: Sequence[int]
    ) -> tuple[dict[int, tuple[int, ...]], set[int]]:
        """The steps that drew each, and which were held out; nothing where today's order is not that run's."""
        import numpy as np

        from tinygptv_core.draws import Order

        folder, stage = self.records.folder(index), _stage(record)
        if folder is None or stage is None:
            return {}, set()
        row_N = np.load(folder / "samples.npy", mmap_mode="r")["row"]
        indexed = {name: _Rows(row_N if name == data else range(1)) for name in stage.mix}  # others bear on nothing
        order = Order(stage, indexed, record.config.get("seen", {}))
        positions = {at: int(np.searchsorted(row_N, self.rows[at].row)) for at in places}
        steps = order.steps_of(data, list(positions.values()))
        held_out = {at for at, position in positions.items() if order.is_held_out(data, position)}
        return {at: tuple(step + 1 for step in steps[position]) for at, position in positions.items()}, held_out

    @cached_property
    def checkpoints(self) -> Mapping[str, Record]:
        """Digest -> record of every checkpoint that had some of the pictures, or goes on from one that had."""
        found: dict[str, Record] = {
            digest: read.record
            for read in self.reads
            if read.record.step == TRAIN.name
            for digest in (read.record.digest, *read.record.others)
        }
        trained = [record for record in self.records.all if record.step == TRAIN.name]
        while more := [r for r in trained if r.inputs.get("init") in found and r.digest not in found]:
            found |= {digest: record for record in more for digest in (record.digest, *record.others)}
        return found

    def holding(self, versions: Sequence[Version]) -> tuple[Holding, ...]:
        """Those of the versions whose ledgers name some of the pictures."""
        found = [self._holding(version) for version in versions]
        return tuple(item for item in found if item.named)

    def _holding(self, version: Version) -> Holding:
        links = chain(self.records, roots_of(version))
        digests, keys = {link.digest for link in links}, {link.record.key for link in links if link.record}
        mine = [read for read in self.reads if read.record.key in keys]
        return Holding(
            version=version,
            trained=frozenset(at for read in mine if read.record.step == TRAIN.name for at in _seen(read)),
            asked=frozenset(at for read in mine if read.record.step == EVALUATE.name for at in read.rows),
            named=frozenset(at for at, row in enumerate(self.rows) if digests.intersection(row.ledger.shards)),
        )


def _seen(read: PictureUse) -> Iterator[int]:
    """The rows that a stage drew, or may have drawn."""
    return (at for at, steps in read.rows.items() if steps is None or steps)


@dataclass(frozen=True)
class _Rows:
    rows: Any


def _stage(record: Record) -> Stage | None:
    """The stage of a record, if today's code still reads it and gives it the same order."""
    if record.version != TRAIN.version:
        return None
    try:
        return from_plain(Stage, {**record.config["stage"], "evals": []})
    except ConfigError:
        return None


def _ledgers(records: Records) -> list[Ledger]:
    """Every ledger of the store, once: what only a registry still knows of among them."""
    found: dict[str, tuple[Path, list[str]]] = {}
    for folder in records.folders.values():
        manifest = folder / MANIFEST
        if folder.parent.name == SHARDS and manifest.is_file():
            members = {member["path"]: member["sha256"] for member in json.loads(manifest.read_text())}
            if LEDGER_FILE in members:
                _, shards = found.setdefault(members[LEDGER_FILE], (folder / LEDGER_FILE, []))
                shards.append(sha256_of_file(manifest))
    return [Ledger(path=path, shards=tuple(digests), data=_names(records, digests)) for path, digests in found.values()]


def _names(records: Records, shards: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(record.group for digest in shards for record in records.of_digest(digest)))


class RemovalMatcher:
    """What is asked for, as a test of some rows of a ledger."""

    def __init__(self, wanted: Removals) -> None:
        self.hosts, self.urls, self.sha256 = wanted.hosts, _value_set(wanted.urls), _value_set(wanted.sha256)
        named = {"url": wanted.urls or wanted.hosts, "sha256": wanted.sha256}
        self.columns = [name for name, values in named.items() if values]

    def reasons(self, rows: "pa.Table") -> dict[int, str]:
        """Place -> by what it was found."""
        found = dict[int, str]()
        if len(self.sha256):
            found |= dict.fromkeys(_within(rows, "sha256", self.sha256), "sha256")
        if self.hosts:
            found |= dict.fromkeys(_of_hosts(rows, self.hosts), "host")
        if len(self.urls):
            found |= dict.fromkeys(_within(rows, "url", self.urls), "url")
        return found


class SameBytesMatcher:
    """A test for rows with one of these bytes."""

    def __init__(self, sha256: frozenset[str]) -> None:
        self.sha256, self.columns = _value_set(sha256), ["sha256"]

    def reasons(self, rows: "pa.Table") -> dict[int, str]:
        """Place -> by what it was found."""
        return dict.fromkeys(_within(rows, "sha256", self.sha256), SAME_BYTES)


# Both are `pa.array`, which would import all of pandas to ask whether the values are of it.
def _numbers(values: Sequence[int]) -> "pa.Array":
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


def _value_set(values: frozenset[str]) -> "pa.Array":
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def _within(rows: "pa.Table", name: str, values: "pa.Array") -> list[int]:
    functions = compute()
    return functions.indices_nonzero(functions.is_in(rows.column(name), value_set=values)).to_pylist()


def _of_hosts(rows: "pa.Table", hosts: frozenset[str]) -> list[int]:
    """The rows whose URL has one of these hosts, or one below it; every host is looked at once."""
    import numpy as np

    found = hosts_of(rows.column("url").combine_chunks())
    named = np.array([is_below(host, hosts) for host in found.dictionary.to_pylist()])
    return np.flatnonzero(named[found.indices.to_numpy()]).tolist()


def matching(ledger: Ledger, test: RemovalMatcher | SameBytesMatcher) -> Iterator[Row]:
    """The rows that the test finds; of the other rows no more is read than what it asks about."""
    import pyarrow.parquet as pq

    first = 0
    with pq.ParquetFile(ledger.path) as file:
        for group in range(file.num_row_groups if test.columns else 0):
            rows = file.read_row_group(group, columns=test.columns)
            if found := test.reasons(rows):
                for name in COLUMNS:
                    if name not in test.columns:
                        rows = rows.append_column(name, file.read_row_group(group, columns=[name]).column(name))
                places = sorted(found)
                taken = rows.select(COLUMNS).take(_numbers(places)).to_pylist()
                for at, told in zip(places, taken, strict=True):
                    yield Row(ledger=ledger, row=first + at, by=found[at], **told)
            first += len(rows)
