"""A table becomes shards: tars in the order of its rows, and a ledger that says what became of every row.

Here from the files of a source; `tasks/segments.py` has the pictures from URLs.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from tasks.fetching.outcomes import Outcome
from tasks.request import Step, StepFolders
from tasks.tables import (
    KEPT,
    LEDGER_FILE,
    ROWS_FILE,
    LedgerRow,
    TableRow,
    TableWriter,
    Tally,
    clear,
    num_rows,
    read_table,
)
from tinygptv_core.compute import Progress
from tinygptv_core.plain import ConfigError
from tinygptv_core.settings import Fetch, check_host

FETCH = Step(name="fetch", kind="shards", version=1)


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Where and how fetching runs.

    Attributes:
        allow_hosts: hosts, as URLs name them, that are fetched from although their address is not public.
        hosts: host -> "ADDRESS:PORT" that stands for it, for servers of our own behind a stable name.
        processes: of img2dataset; each fetches a shard at a time.
        threads: of each process; each fetches a picture at a time.
        ray_address: a Ray cluster that fetches instead; None fetches with processes of this machine.
        progress: told (rows done, rows in all, what is being done) now and then.
    """

    allow_hosts: tuple[str, ...]
    hosts: Mapping[str, str]
    processes: int
    threads: int
    ray_address: str | None
    progress: Progress

    def __post_init__(self) -> None:
        for host in self.allow_hosts:
            check_host(host, "--allow-host")


class ShardWriter:
    """Writes rows into tars of `samples_per_shard` samples, in the order given, and all of them into the ledger."""

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        self.folder, self.samples_per_shard, self.num_samples = folder, samples_per_shard, 0
        self.open = ExitStack()
        self.ledger = self.open.enter_context(TableWriter(folder / LEDGER_FILE, LedgerRow))
        self.tar_open = ExitStack()
        self.tar: Any = None

    def write(self, row: TableRow, outcome: Outcome, picture: tuple[str, bytes] | None) -> None:
        """Add one row; `picture` is its extension and bytes."""
        self.ledger.write(
            LedgerRow(
                key=row.key,
                url=row.url,
                fate=outcome.fate,
                detail=outcome.detail,
                sha256=outcome.sha256,
                width=outcome.width,
                height=outcome.height,
            )
        )
        if outcome.fate == KEPT:
            self._add(row, picture)

    def _add(self, row: TableRow, picture: tuple[str, bytes] | None) -> None:
        if self.num_samples % self.samples_per_shard == 0:
            self._next_tar()
        said = {"key": row.key, "turns": json.loads(row.turns), "split": row.split, "group": row.group, "url": row.url}
        sample: dict[str, Any] = {"__key__": row.key, "json": json.dumps(said, ensure_ascii=False).encode()}
        if picture is not None:
            extension, data = picture
            sample[extension] = data
        self.tar.write(sample)
        self.num_samples += 1

    def _next_tar(self) -> None:
        from webdataset import TarWriter

        self.tar_open.close()
        name = f"{self.num_samples // self.samples_per_shard:05d}.tar"
        file = self.tar_open.enter_context((self.folder / name).open("wb"))
        self.tar = self.tar_open.enter_context(TarWriter(file, user="", group="", mtime=0, encoder=False))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tar_open.close()
        self.open.__exit__(kind, error, trace)


Found = Iterator[tuple[TableRow, Outcome, tuple[str, bytes] | None]]


def write_shards(found: Found, samples_per_shard: int, folder: Path) -> Tally:
    """Write `found`, what became of some rows, as shards into `folder`; how many were kept, and why others were not."""
    tally = Tally()
    with ShardWriter(folder, samples_per_shard) as writer:
        for row, outcome, picture in found:
            writer.write(row, outcome, picture)
            tally.count(outcome.fate)
    return tally


def fetch_files(settings: Fetch, table: Path, source: Path, options: FetchOptions, folders: StepFolders) -> None:
    """The rows of `table` as shards, with the pictures that their files below the source's `images/` hold.

    Raises:
        ConfigError: nothing is left; or the pictures are to be resized.
    """
    if settings.image_size is not None:
        raise ConfigError("image_size must be null for a data set of files: their pictures are kept as they are")
    clear(folders.out)
    rows = table / ROWS_FILE
    tally = write_shards(_from_files(settings, rows, source, options), settings.samples_per_shard, folders.out)
    tally.write(folders.out, num_rows(rows))


def _from_files(settings: Fetch, rows: Path, source: Path, options: FetchOptions) -> Found:
    """Each row with the bytes of its file, kept as they are; a row without a file is text alone."""
    images, total = (source / "images").resolve(), num_rows(rows)
    for position, row in enumerate(read_table(rows, TableRow)):
        if position % 500 == 0:
            options.progress(position, total, "reading pictures")
        if row.file is None:
            yield row, Outcome(fate=KEPT, detail=""), None
        else:
            yield row, *_from_file(images, row.file, settings.max_bytes)
    options.progress(total, total, "reading pictures")


def _from_file(images: Path, name: str, max_bytes: int) -> tuple[Outcome, tuple[str, bytes] | None]:
    from tasks.screening.pictures import PictureError, decoded

    path = images / name
    try:
        if not path.resolve().is_relative_to(images):
            return Outcome(fate="outside_images", detail=f"{name} does not lie below images/"), None
        if not path.is_file():
            return Outcome(fate="missing", detail=f"there is no images/{name}"), None
        data = path.read_bytes()
        picture = decoded(data, max_bytes)
    except PictureError as error:
        return Outcome(fate=error.reason, detail=error.detail), None
    except (OSError, ValueError) as error:  # a name too long, with a zero byte, or that may not be read
        return Outcome(fate="unreadable", detail=type(error).__name__), None
    width, height = picture.image.size
    outcome = Outcome(fate=KEPT, detail="", sha256=sha256(data).hexdigest(), width=width, height=height)
    return outcome, (picture.extension, data)
