"""A table becomes shards: pictures from URLs through img2dataset, or from the files of a source.

Either way the shards are tars in key order, and the ledger says what became of every row.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tasks.build import Site, Step
from tasks.guard import Rules, canonical_host
from tasks.outcomes import KEPT, ROW_COLUMN, Outcome, finished_shards, lost, outcomes_of
from tasks.tables import LEDGER_FILE, ROWS_FILE, LedgerRow, TableRow, TableWriter, Tally, clear, num_rows, read_table
from tinygptv_core.plain import ConfigError, plain, sha256_of
from tinygptv_core.presets import Fetch
from tinygptv_core.recipe import Recipe

FETCH = Step(name="fetch", kind="shards", version=1)

POLL_SECONDS = 0.1
LOG_TAIL_CHARACTERS = 2_000
LOG_FILE = "img2dataset.log"


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Where and how fetching runs.

    Attributes:
        allow_hosts: hosts, as URLs name them, that are fetched from although their address is not public.
        hosts: host -> "ADDRESS:PORT" that stands for it, for servers of our own behind a stable name.
        processes: of img2dataset; each fetches a shard at a time.
        threads: of each process; each fetches a picture at a time.
        progress: told (rows done, rows in all, what is being done) now and then.
    """

    allow_hosts: tuple[str, ...]
    hosts: Mapping[str, str]
    processes: int
    threads: int
    progress: Callable[[int, int, str], None]

    def __post_init__(self) -> None:
        for host in self.allow_hosts:
            if "/" in host or (":" in host and not canonical_host(host).count(":") > 1):
                raise ConfigError(f"--allow-host {host}: give the host alone, as in 192.168.0.7 or pictures.lan")


@dataclass(frozen=True, kw_only=True)
class DownloadSpec:
    """What crosses to the process that runs img2dataset.

    Attributes:
        urls: a parquet file with columns `row` and `url`.
        first, second: folders for what img2dataset writes, the second for the rows in `again`.
        again: the rows of `urls` whose failure may have gone by; written by the process.
        done: exists when all of it is there.
    """

    urls: Path
    first: Path
    again: Path
    second: Path
    done: Path
    image_size: int | None
    resize_mode: str
    timeout_seconds: int
    samples_per_shard: int
    processes: int
    threads: int
    rules: Rules


def fetch(settings: Fetch, recipe: Recipe, table: Path, source: Path | None, options: FetchOptions, site: Site) -> None:
    """The rows of `table` as shards, with the pictures that their URLs or files give.

    Args:
        source: the folder that has `images/`, for data sets of files.

    Raises:
        ConfigError: nothing is left; or a data set of files is to be resized.
        RuntimeError: img2dataset ended with an error; its log is in the notes.
    """
    clear(site.out)
    rows = table / ROWS_FILE
    if recipe.how == "file":
        found = _from_files(settings, rows, source, options)
    else:
        found = _from_urls(settings, rows, options, site)
    tally = Tally()
    with Packer(site.out, settings.samples_per_shard) as packer:
        for row, outcome, picture in found:
            packer.write(row, outcome, picture)
            if outcome.fate == KEPT:
                tally.kept += 1
            else:
                tally.dropped[outcome.fate] += 1
    try:
        tally.write(site.out, num_rows(rows))
    except ConfigError as error:
        clear(site.scratch)  # so that the next try asks again, rather than going on from this one
        raise ConfigError(f"{error}.{_advice(tally)}") from None


def _advice(tally: Tally) -> str:
    if "refused_address" not in tally.dropped:
        return ""
    return " Name a host whose address is not public with --allow-host HOST, if you mean to fetch from it"


class Packer:
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

    def __enter__(self) -> "Packer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tar_open.close()
        self.open.__exit__(kind, error, trace)


Found = Iterator[tuple[TableRow, Outcome, tuple[str, bytes] | None]]


def _from_files(settings: Fetch, rows: Path, source: Path | None, options: FetchOptions) -> Found:
    """Each row with the bytes of its file, kept as they are; a row without a file is text alone."""
    if settings.image_size is not None:
        raise ConfigError("image_size must be null for a data set of files: their pictures are kept as they are")
    if source is None:
        raise ValueError("a data set of files needs the source that has them")
    images, total = (source / "images").resolve(), num_rows(rows)
    for position, row in enumerate(read_table(rows, TableRow)):
        if position % 500 == 0:
            options.progress(position, total, "reading pictures")
        if row.file is None:
            yield row, Outcome(fate=KEPT, detail="", sha256=None, width=None, height=None, picture=None), None
        else:
            yield row, *_from_file(images, row.file, settings.max_bytes)
    options.progress(total, total, "reading pictures")


def _from_file(images: Path, name: str, max_bytes: int) -> tuple[Outcome, tuple[str, bytes] | None]:
    from tasks.pictures import PictureError, decoded

    path = images / name
    try:
        if not path.resolve().is_relative_to(images):
            return _drop("outside_images", f"{name} does not lie below images/"), None
        if not path.is_file():
            return _drop("missing", f"there is no images/{name}"), None
        data = path.read_bytes()
        picture = decoded(data, max_bytes)
    except PictureError as error:
        return _drop(error.reason, error.detail), None
    except (OSError, ValueError) as error:  # a name too long, with a zero byte, or that may not be read
        return _drop("unreadable", type(error).__name__), None
    width, height = picture.image.size
    outcome = Outcome(fate=KEPT, detail="", sha256=sha256(data).hexdigest(), width=width, height=height, picture=None)
    return outcome, (picture.extension, data)


def _drop(reason: str, detail: str) -> Outcome:
    return Outcome(fate=reason, detail=detail, sha256=None, width=None, height=None, picture=None)


def _from_urls(settings: Fetch, rows: Path, options: FetchOptions, site: Site) -> Found:
    """Each row with what img2dataset got for its URL, after all of them were tried."""
    spec = _spec(settings, rows, options, site)
    total = num_rows(rows)
    if not spec.done.exists():
        _run_img2dataset(spec, total, options, site)
    second = {
        row: outcome
        for shard in finished_shards(spec.second)
        for row, outcome in outcomes_of(spec.second, shard).items()
    }
    waiting = read_table(rows, TableRow)
    for shard in range(-(-total // spec.samples_per_shard)):
        first = outcomes_of(spec.first, shard)
        options.progress(shard * spec.samples_per_shard, total, "packing")
        for row in islice(waiting, spec.samples_per_shard):
            outcome = second.get(row.key) or first.get(row.key, lost())
            yield row, outcome, _with_extension(outcome)
    options.progress(total, total, "packing")


def _with_extension(outcome: Outcome) -> tuple[str, bytes] | None:
    from tasks.pictures import EXTENSIONS, opened

    if outcome.picture is None:
        return None
    data = outcome.picture.read()
    return EXTENSIONS[opened(data).format or ""], data


def _spec(settings: Fetch, rows: Path, options: FetchOptions, site: Site) -> DownloadSpec:
    """What to download, in a folder of its own for each set of allowed hosts: these change what can be had."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = site.scratch / f"allowing-{sha256_of(sorted(options.allow_hosts))[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    urls = folder / "urls.parquet"
    table = pq.read_table(rows, columns=["key", "url"]).rename_columns([ROW_COLUMN, "url"])
    pq.write_table(table.cast(pa.schema([(ROW_COLUMN, pa.string()), ("url", pa.string())])), urls)
    return DownloadSpec(
        urls=urls,
        first=folder / "first",
        again=folder / "again.parquet",
        second=folder / "second",
        done=folder / "done",
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
        ),
    )


def _run_img2dataset(spec: DownloadSpec, total: int, options: FetchOptions, site: Site) -> None:
    """Run img2dataset in a process group of its own, which ends with us, and report how far it is.

    Raises:
        RuntimeError: it ended with an error.
    """
    spec_file, log_file = spec.urls.with_name("spec.json"), site.notes / LOG_FILE
    spec_file.write_text(json.dumps(plain(spec)))
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.download_process", str(spec_file)],
            stdin=subprocess.PIPE,  # it ends when this closes, so also when we are killed
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                options.progress(sum(finished_shards(spec.first).values()), total, "fetching")
                time.sleep(POLL_SECONDS)
        finally:
            _end_group(process)
    shards = -(-total // spec.samples_per_shard)
    if missing := sorted(set(range(shards)) - finished_shards(spec.first).keys()):
        spec.done.unlink(missing_ok=True)  # a full disk, or too little memory: no row is dropped for that
        raise RuntimeError(
            f"img2dataset did not finish {len(missing)} of {shards} shards; see {log_file}. Run it again."
        )
    if process.returncode != 0 or not spec.done.exists():
        tail = log_file.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
        raise RuntimeError(f"img2dataset ended with code {process.returncode}; the end of {log_file}:\n{tail}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and of those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    pipe: IO[bytes] | None = process.stdin
    if pipe is not None:
        pipe.close()
