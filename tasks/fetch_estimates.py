"""What a fetch would take, before anything is fetched: from what is known of the data set, or was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from tasks.build import Store
from tasks.fetch import FetchOptions
from tasks.request import Estimate
from tasks.segments import SEGMENT, FetchTarget, rows_of_a_segment
from tasks.storing.records import Record, Records
from tasks.tables import read_counts
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import plain
from tinygptv_core.recipe import Recipe
from tinygptv_core.settings import Fetch

SUCCESS = 0.6
"""Of old lists of links so many still answer: 60 to 70 in a hundred of LAION's did in 2023, and fewer each month."""
PICTURE_BYTES = 23_000
"""A picture of 224 x 224 pixels with its text, in a tar."""
REQUEST_SECONDS = 0.5
"""What one request takes on the open web, from the connection to the last byte."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was fetched of a data set, all segments together."""

    rows: int
    kept: int
    bytes: int
    seconds: float


def estimate_fetch(
    wanted: FetchTarget,
    form: Recipe,
    table: Artifact | None,
    options: FetchOptions,
    store: Store,
    listed: int | None = None,
) -> Estimate | None:
    """What is still to be fetched; None where nobody knows how many rows there are, and all are wanted.

    Args:
        table: the rows, if they are there already.
        listed: how many records the user's own lists hold, if that is known: the rows are no more.
    """
    name = f"{wanted.name}/{SEGMENT.name}"
    records = [record for record in Records(store).of_step(SEGMENT.name) if record.name == name]
    there = _sum([one for one in records if _is_of(one, wanted, table) and _has_pictures(one, store)], store)
    ever = _sum(records, store)
    rows = read_counts(table.path)["kept"] if table else form.expected_rows
    per_row = ever.kept / ever.rows if ever.kept else form.expected_success or SUCCESS
    lacking = None if wanted.pictures is None else max(0, wanted.pictures - there.kept) / per_row
    enough = None if lacking is None else there.rows + _in_segments(lacking, rows, wanted.settings)
    known = [number for number in (listed if rows is None else rows, enough) if number is not None]
    if not known:
        return None
    left = max(0, min(known) - there.rows)
    picture_bytes = ever.bytes / ever.kept if ever.kept else form.picture_bytes or PICTURE_BYTES
    timed = _sum([record for record in records if record.noted["fetch_seconds"]], store)
    row_seconds = timed.seconds / timed.rows if timed.rows else REQUEST_SECONDS / (options.processes * options.threads)
    return Estimate(
        rows=left,
        is_bound=rows is None,
        bytes=round(left * per_row * picture_bytes),
        seconds=left * row_seconds,
        is_measured=bool(ever.kept),
    )


def _in_segments(lacking: float, rows: int | None, settings: Fetch) -> int:
    """So many rows as they are fetched: by whole segments, which are equal on average."""
    if rows is None:
        return ceil(lacking)
    each = rows_of_a_segment(max(rows, 1), settings)
    return ceil(ceil(lacking / each) * each)


def _is_of(record: Record, wanted: FetchTarget, table: Artifact | None) -> bool:
    """Whether a segment is one of this fetch's."""
    config = plain(wanted.config, identity=True)
    return table is not None and record.noted["table"] == table.digest and record.config == config


def _has_pictures(record: Record, store: Store) -> bool:
    """Whether a segment gave any; one that gave none is asked for again."""
    folder = store.sealed.at(SEGMENT.kind, record.digest).path
    return folder.is_dir() and read_counts(folder)["kept"] > 0


def _sum(records: Sequence[Record], store: Store) -> Measured:
    rows = kept = num_bytes = 0
    for record in records:
        folder = store.sealed.at(SEGMENT.kind, record.digest).path
        if folder.is_dir():
            counts = read_counts(folder)
            rows, kept = rows + counts["rows"], kept + counts["kept"]
            num_bytes += sum(tar.stat().st_size for tar in folder.glob("*.tar"))
    return Measured(
        rows=rows, kept=kept, bytes=num_bytes, seconds=sum(record.noted["fetch_seconds"] for record in records)
    )
