"""A table becomes shards: as many pictures from its URLs as are wanted, and no more.

The rows of a table have an order as if shuffled (`tinygptv_core/ordering.py`), which is cut into segments of about
equal size. A segment is fetched whole and is an artifact of its own, named by its rows: who wants more later fetches
further segments, and a list from which some rows were removed is fetched again where these were, not elsewhere.
The next segment's rows stand in for the links of the one before that are dead. The rows that are in no fetched
segment are `not_wanted`.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from tasks.build import Store
from tasks.fetch import FetchOptions, Found, write_shards
from tasks.fetching.downloads import LOG_FILE, DownloadSpec, Job, forget_damaged, run_img2dataset
from tasks.fetching.guard import Rules
from tasks.fetching.outcomes import ROW_COLUMN, Outcome, finished_shards, lost, outcomes_of
from tasks.hosts import host_of
from tasks.request import Request, Step, StepFolders
from tasks.tables import (
    GROUP_ROWS,
    KEPT,
    LEDGER_FILE,
    ROWS_FILE,
    LedgerRow,
    TableRow,
    TableWriter,
    Tally,
    clear,
    num_rows,
    read_counts,
    read_table,
)
from tinygptv_core.artifact import Artifact, file_artifact
from tinygptv_core.plain import ConfigError, sha256_of
from tinygptv_core.settings import Fetch

SEGMENT = Step(name="segment", kind="shards", version=1)

NOT_WANTED = "not_wanted"
SEGMENTS_AT_ONCE = 32
"""More at once would take more disk for what is not packed yet. Which segments are fetched depends on it."""
HOSTS_FILE = "hosts.json"
TOLD_HOSTS = 1_000


@dataclass(frozen=True, kw_only=True)
class FetchTarget:
    """What is fetched, as the store knows it.

    Attributes:
        name: of the data set.
        settings: how.
        pictures: how many; None for all that can be had.
        allowed: the allowed hosts, where they bear on what comes (`flows/data.py`).
    """

    name: str
    settings: Fetch
    pictures: int | None
    allowed: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What bears on a segment beside its rows."""
        return {"fetch": self.settings, **self.allowed}


@dataclass(frozen=True, kw_only=True)
class SegmentStore:
    """Where segments are kept, and what is noted beside each (`Store.build`)."""

    store: Store
    noted: Mapping[str, Any]


def rounded(pictures: int, settings: Fetch) -> int:
    """`pictures` in whole segments, so that a few more of them ask for the same."""
    return ceil(pictures / settings.segment_rows) * settings.segment_rows


def num_segments(rows: int, settings: Fetch) -> int:
    """Into how many segments a table is cut: a power of two, so that a few rows more or less change none of them."""
    count = 1
    while rows > count * settings.segment_rows:
        count *= 2
    return count


def rows_of_a_segment(rows: int, settings: Fetch) -> float:
    """On average, of a table that has so many."""
    return rows / num_segments(rows, settings)


def fetch_urls(
    wanted: FetchTarget, table: Artifact, options: FetchOptions, folders: StepFolders, segment_store: SegmentStore
) -> None:
    """The rows of `table` as shards, with the pictures that their URLs give, until as many are there as are wanted.

    Raises:
        ConfigError: nothing is left.
        RuntimeError: img2dataset ended with an error, its log is in the notes; or hardly any picture could be had.
    """
    clear(folders.out)
    total = num_rows(table.path / ROWS_FILE)
    count, number, fetched = num_segments(total, wanted.settings), 0, list[Artifact]()
    fetch = _Fetch(wanted, table, options, folders, segment_store)
    while number < count and (missing := _missing(wanted, fetched, count, total)):
        numbers = range(number, min(number + missing, number + SEGMENTS_AT_ONCE, count))
        fetched += fetch.segments(numbers, count)
        number = numbers.stop
    try:
        _join(fetched, total, folders)
    except ConfigError as error:
        clear(folders.scratch)  # so that the next try asks again, rather than going on from this one
        raise ConfigError(f"{error}.{_advice(str(error))}") from None


def _missing(wanted: FetchTarget, fetched: Sequence[Artifact], count: int, total: int) -> int:
    """How many more segments it takes by what those so far gave, or by one picture a row while they gave none."""
    if wanted.pictures is None:
        return count
    counts = [read_counts(artifact.path) for artifact in fetched]
    kept, rows = sum(item["kept"] for item in counts), sum(item["rows"] for item in counts)
    per_row = kept / rows if kept else 1.0
    return max(0, ceil((wanted.pictures - kept) / (per_row * total / count)))


class _Fetch:
    """One fetch on its way."""

    def __init__(
        self,
        wanted: FetchTarget,
        table: Artifact,
        options: FetchOptions,
        folders: StepFolders,
        segment_store: SegmentStore,
    ) -> None:
        self.wanted, self.table, self.options = wanted, table, options
        self.folders, self.segment_store = folders, segment_store
        self.done_rows = 0

    def segments(self, numbers: range, count: int) -> list[Artifact]:
        """The segments of these numbers, of `count`: those that the store does not have are fetched together."""
        tables = [file_artifact(path, "table") for path in self._cut(numbers, count) if num_rows(path)]
        forced = [self._forced(rows) for rows in tables]
        missing = [rows for rows, force in zip(tables, forced, strict=True) if force or self._known(rows) is None]
        seconds = self._download(missing) if missing else 0.0
        per_row = seconds / max(1, sum(num_rows(rows.path) for rows in missing))
        return [
            self._build(rows, force, per_row * num_rows(rows.path)) for rows, force in zip(tables, forced, strict=True)
        ]

    def _cut(self, numbers: range, count: int) -> list[Path]:
        if count == 1:
            return [self.table.path / ROWS_FILE]
        return cut(self.table.path / ROWS_FILE, numbers, count, self.wanted.settings.seed, self.folders.scratch)

    def _request(self, rows: Artifact) -> Request:
        def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
            self._pack(inputs["rows"].path, self._job(inputs["rows"]), folders)

        name = f"{self.wanted.name}/{SEGMENT.name}"
        return Request(name=name, step=SEGMENT, config=self.wanted.config, inputs={"rows": rows}, work=work)

    def _known(self, rows: Artifact) -> Artifact | None:
        """It, if the store has it whole: its tars become those of the shards, and it is no input that is checked."""
        return self.segment_store.store.lookup_verified(self._request(rows), {"rows": rows}).artifact

    def _renewed(self, rows: Artifact) -> Path:
        """Exists once this fetch has made the segment, or found it."""
        return self.folders.scratch / f"renewed-{rows.digest[:12]}"

    def _forced(self, rows: Artifact) -> bool:
        """Whether it is asked for anew though the store has it: all may have failed for being offline that day."""
        if self._renewed(rows).exists():
            return False
        if self.folders.forced:
            return True
        known = self._known(rows)
        return known is not None and not read_counts(known.path)["kept"]

    def _build(self, rows: Artifact, force: bool, seconds: float) -> Artifact:
        noted = {"table": self.table.digest, "fetch_seconds": seconds}
        built = self.segment_store.store.build(
            self._request(rows),
            {"rows": rows},
            {},
            noted={**self.segment_store.noted, **noted},
            force=force,
            waiting=lambda text: self.options.progress(self.done_rows, self.done_rows, text),
        )
        self._renewed(rows).touch()
        shutil.rmtree(self._job(rows).folder, ignore_errors=True)
        self.done_rows += num_rows(rows.path)
        return built.artifact

    def _job(self, rows: Artifact) -> Job:
        """In a folder of its own for each set of allowed hosts: these change what can be had."""
        allowed = sha256_of(sorted(self.options.allow_hosts))
        folder = self.folders.scratch / f"{rows.digest[:12]}-allowing-{allowed[:12]}"
        return Job(urls=folder / "urls.parquet", folder=folder)

    def _download(self, tables: Sequence[Artifact]) -> float:
        """Fetch the rows of these tables; the seconds that it took."""
        jobs = [_with_urls(self._job(rows), rows.path) for rows in tables]
        for job in jobs:
            forget_damaged(job, self.wanted.settings.samples_per_shard)
        waiting = tuple(job for job in jobs if not job.done.exists())
        total = sum(num_rows(rows.path) for rows in tables)
        began, before = time.monotonic(), self.done_rows
        if waiting:
            run_img2dataset(
                self._spec(waiting),
                self.folders.scratch,
                self.folders.notes / LOG_FILE,
                self.wanted.settings.min_success,
                lambda fates: self.options.progress(before + fates.total(), before + total, _had(fates)),
            )
        return time.monotonic() - began

    def _spec(self, jobs: tuple[Job, ...]) -> DownloadSpec:
        settings, options = self.wanted.settings, self.options
        return DownloadSpec(
            jobs=jobs,
            image_size=settings.image_size,
            resize_mode=settings.resize_mode,
            timeout_seconds=settings.timeout_seconds,
            samples_per_shard=settings.samples_per_shard,
            processes=options.processes,
            threads=options.threads,
            rules=Rules(
                allow_hosts=options.allow_hosts,
                hosts=options.hosts,
                total_seconds=settings.total_seconds,
                max_bytes=settings.max_bytes,
                per_host=settings.per_host,
            ),
            # A server of our own is on this machine's loopback, where a cluster does not see it.
            ray_address=None if options.hosts else options.ray_address,
        )

    def _pack(self, rows: Path, job: Job, folders: StepFolders) -> None:
        clear(folders.out)
        tally = write_shards(self._found(rows, job), self.wanted.settings.samples_per_shard, folders.out)
        tally.write_any(folders.out, num_rows(rows))

    def _found(self, rows: Path, job: Job) -> Found:
        """Each row with what img2dataset got for its URL."""
        second = {
            row: outcome
            for shard in finished_shards(job.second)
            for row, outcome in outcomes_of(job.second, shard).items()
        }
        waiting, total, per_shard = read_table(rows, TableRow), num_rows(rows), self.wanted.settings.samples_per_shard
        for shard in range(ceil(total / per_shard)):
            first = outcomes_of(job.first, shard)
            self.options.progress(self.done_rows + shard * per_shard, self.done_rows + total, "packing")
            for row in islice(waiting, per_shard):
                outcome = second.get(row.key) or first.get(row.key, lost())
                yield row, outcome, self._picture(outcome)
        self.options.progress(self.done_rows + total, self.done_rows + total, "packing")

    def _picture(self, outcome: Outcome) -> tuple[str, bytes] | None:
        """A picture's extension and bytes; one that was resized is a JPEG."""
        from tasks.screening.pictures import EXTENSIONS, opened

        if outcome.picture is None:
            return None
        data = outcome.picture.read()
        is_resized = self.wanted.settings.image_size is not None
        return "jpg" if is_resized else EXTENSIONS[opened(data).format or ""], data


def _had(fates: Counter[str]) -> str:
    return f"fetching, {fates[KEPT] / fates.total():.0%} had" if fates else "fetching"


def _advice(said: str) -> str:
    if "refused_address" not in said:
        return ""
    return " Name a host whose address is not public with --allow-host HOST, if you mean to fetch from it"


def _with_urls(job: Job, rows: Path) -> Job:
    """`job`, with its file of URLs written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    job.folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(rows, columns=["key", "url"]).rename_columns([ROW_COLUMN, "url"])
    pq.write_table(table.cast(pa.schema([(ROW_COLUMN, pa.string()), ("url", pa.string())])), job.urls)
    return job


def cut(rows: Path, numbers: range, count: int, seed: int, folder: Path) -> list[Path]:
    """The rows of the segments of these `numbers`, of `count` (a power of two): each a table, in the order of `rows`.

    A row belongs to the segment that the first bits of its key's place say. Equal rows give equal bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[int, list[Any]] = {number: [] for number in numbers}
    with pq.ParquetFile(rows) as file:
        schema = file.schema_arrow
        for batch in file.iter_batches(batch_size=GROUP_ROWS):
            for number, part in _parts(pa.table(batch), count, seed, found.keys()):
                found[number].append(part)
    paths = [folder / f"rows-{number:05d}-of-{count}.parquet" for number in numbers]
    for path, number in zip(paths, numbers, strict=True):
        table = pa.concat_tables(found[number]) if found[number] else schema.empty_table()
        pq.write_table(table.combine_chunks(), path, compression="zstd", row_group_size=GROUP_ROWS)
    return paths


def _parts(batch: Any, count: int, seed: int, numbers: Any) -> Iterator[tuple[int, Any]]:
    """Of the rows of `batch`, those of each segment that is asked for."""
    import numpy as np
    import pyarrow as pa

    from tinygptv_core.ordering import places

    key_N = batch.column("key").cast(pa.int64()).to_numpy()
    segment_N = places(key_N, seed) >> np.uint64(64 - (count - 1).bit_length())
    for number in numbers:
        if len(chosen := np.flatnonzero(segment_N == number)):
            yield number, batch.take(chosen)


def _join(segments: Sequence[Artifact], total: int, folders: StepFolders) -> None:
    """All segments as one: their tars (the same files, where the disk can do that), their ledgers, their counts."""
    tally, hosts, tars = Tally(), Hosts(), 0
    with TableWriter(folders.out / LEDGER_FILE, LedgerRow) as ledger:
        for segment in segments:
            counts = read_counts(segment.path)
            tally.kept += counts["kept"]
            tally.dropped.update(counts["dropped"])
            for row in read_table(segment.path / LEDGER_FILE, LedgerRow):
                ledger.write(row)
                hosts.count(row)
            for tar in sorted(segment.path.glob("*.tar")):
                _link(tar, folders.out / f"{tars:05d}.tar")
                tars += 1
    if left := total - tally.kept - tally.dropped.total():
        tally.dropped[NOT_WANTED] = left
    tally.write(folders.out, total)
    hosts.write(folders.notes / HOSTS_FILE)


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # a disk without them, or another disk
        shutil.copyfile(file, name)


class Hosts:
    """Which host gave how many pictures."""

    def __init__(self) -> None:
        self.rows, self.kept = Counter[str](), Counter[str]()

    def count(self, row: LedgerRow) -> None:
        """Add what became of a row."""
        host = host_of(row.url)
        self.rows[host] += 1
        self.kept[host] += row.fate == KEPT

    def write(self, file: Path) -> None:
        """The hosts of most rows first: `{host: {"rows", "kept"}}`."""
        ordered = sorted(self.rows.items(), key=lambda item: (-item[1], item[0]))[:TOLD_HOSTS]
        file.write_text(json.dumps({host: {"rows": n, "kept": self.kept[host]} for host, n in ordered}, indent=1))
