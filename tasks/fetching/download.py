"""What runs inside img2dataset's processes: its own reader, downloader and resizer, guarded and strict.

Its pool is not used: that one waits for ever for what a worker had in hand which the system killed.

`tasks.fetching.download_process` runs this, as a process of its own.
"""

import io
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from img2dataset.downloader import Downloader
from img2dataset.reader import Reader
from img2dataset.resizer import Resizer
from img2dataset.writer import WebDatasetSampleWriter

from tasks.fetching.downloads import ENVIRONMENT, WORKER_LOST, DownloadSpec, Job, shared, unwritten
from tasks.fetching.guard import Rules, install
from tasks.fetching.outcomes import ROW_COLUMN, finished_shards, progress_file, reason_of, to_retry
from tasks.fetching.reservations import USER_AGENT
from tasks.screening.pictures import PictureError, decoded
from tasks.tables import KEPT
from tinygptv_core.drafts import write_whole
from tinygptv_core.plain import from_plain

SHARD_DIGITS = 5
JPEG_QUALITY = 95
TELL_SECONDS = 0.5


class StrictResizer(Resizer):
    """Decodes the original strictly before img2dataset resizes it. Without a size it is kept as it came."""

    def __init__(self, image_size: int | None, resize_mode: str, max_bytes: int) -> None:
        mode = "no" if image_size is None else resize_mode
        super().__init__(image_size or 0, mode, resize_only_if_bigger=False, encode_quality=JPEG_QUALITY)
        self.keep_original, self.max_bytes = image_size is None, max_bytes

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: Any = None) -> tuple[Any, ...]:
        """The picture's bytes, width and height, its original width and height, and what is wrong with it."""
        img_stream.seek(0)
        data = img_stream.read()
        try:
            picture = decoded(data, self.max_bytes, to_scale=self.keep_original)
        except PictureError as error:
            return None, None, None, None, None, str(error)
        if self.keep_original:
            width, height = picture.image.size
            return data, width, height, width, height, None
        if picture.is_plain:
            return super().__call__(img_stream, blurring_bbox_list)
        plain = io.BytesIO()
        picture.image.save(plain, "BMP")
        return super().__call__(plain, blurring_bbox_list)


class ProgressWriter(WebDatasetSampleWriter):
    """img2dataset's writer, which also says now and then how far its shard is."""

    def __init__(self, shard_id: int, output_folder: str, *settings: Any) -> None:
        super().__init__(shard_id, output_folder, *settings)
        self.file, self.fates, self.told = progress_file(Path(output_folder), shard_id), Counter[str](), 0.0

    def write(self, img_str: Any, key: str, caption: Any, meta: dict[str, Any]) -> None:
        """Add a row."""
        super().write(img_str, key, caption, meta)
        status = meta["status"]
        self.fates[KEPT if status == "success" else reason_of(status, meta["error_message"] or "")[0]] += 1
        if monotonic() - self.told > TELL_SECONDS:
            self._tell()

    def close(self) -> None:
        """Add no more."""
        super().close()
        self._tell()

    def _tell(self) -> None:
        write_whole(self.file, json.dumps(self.fates))
        self.told = monotonic()


class GuardedDownloader(Downloader):
    """img2dataset's downloader, whose every process fetches by our rules and ends with its parent."""

    def __init__(self, rules: Rules, **settings: Any) -> None:
        super().__init__(**settings)
        self.rules = rules

    def download_shard(self, row: Any) -> None:
        """Fetch one shard."""
        install(self.rules)
        _end_with_parent()
        super().download_shard(row)


def _end_with_parent() -> None:
    """Let this worker die as soon as the process that started it has, once per process."""
    parent = multiprocessing.parent_process()
    name = "end with parent"
    if parent is not None and name not in {thread.name for thread in threading.enumerate()}:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), name=name, daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _end_with_pipe() -> None:
    """Kill this process group when the pipe at standard input closes: whoever started us is gone."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # nothing is ever written, so this returns at the end
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


Task = tuple[GuardedDownloader, tuple[int, str]]
"""A shard to fetch: its number, its rows as img2dataset's reader wrote them, and what fetches it."""
Run = Callable[[Iterable[Task]], Iterator[tuple[bool, Any]]]
"""Fetches shards somewhere; says of each whether it was written."""


def shards_of(spec: DownloadSpec, urls: Path, folder: Path) -> Iterator[Task]:
    """The shards of a parquet file of URLs (columns `row`, `url`) that are not finished in `folder`."""
    work = folder / "_tmp"
    work.mkdir(parents=True, exist_ok=True)
    done = set(finished_shards(folder))
    reader = Reader(
        str(urls), "parquet", "url", None, None, None, [ROW_COLUMN], spec.samples_per_shard, done, str(work)
    )
    downloader = GuardedDownloader(
        spec.rules,
        sample_writer_class=ProgressWriter,
        resizer=StrictResizer(spec.image_size, spec.resize_mode, spec.rules.max_bytes),
        thread_count=spec.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=reader.column_list,
        timeout=spec.timeout_seconds,
        number_sample_per_shard=spec.samples_per_shard,
        oom_shard_count=SHARD_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=USER_AGENT,
        disallowed_header_directives=None,  # the guard judges them
    )
    for shard in reader:
        yield downloader, shard


def run_here(tasks: Iterable[Task]) -> Iterator[tuple[bool, Any]]:
    """One shard after another, in this process."""
    return map(_fetch_shard, tasks)


def _fetch_shard(task: Task) -> tuple[bool, Any]:
    downloader, shard = task
    return downloader(shard)


@contextmanager
def shard_runner(spec: DownloadSpec, num_shards: int) -> Iterator[Run]:
    """Where `num_shards` shards are fetched: a Ray cluster, worker processes, or here where neither would be sooner."""
    if spec.ray_address is not None:
        yield _on_ray(spec.processes)
    elif min(num_shards, spec.processes) < 2:
        yield run_here  # a pool would take longer to start than to do this
    else:
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(num_shards, spec.processes), mp_context=spawned) as pool:
            yield lambda tasks: pool.map(_fetch_shard, tasks)


def _cores(address: str) -> int:
    """How many cores a Ray cluster has; connects to it."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": ENVIRONMENT})
    except (ConnectionError, ValueError) as error:
        sys.exit(f"no Ray cluster answers at {address}: {error}")
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _on_ray(processes: int) -> Run:
    """On so many cores of a cluster, whose machines see the same folders and have the project installed."""
    import ray

    fetch_shard = ray.remote(max_retries=3)(_fetch_shard)

    def run(tasks: Iterable[Task]) -> Iterator[tuple[bool, Any]]:
        left = iter(tasks)
        running = [fetch_shard.remote(task) for task in islice(left, processes)]
        while running:
            (done,), running = ray.wait(running)
            running += [fetch_shard.remote(task) for task in islice(left, 1)]
            yield ray.get(done)

    return run


def fetch_shards(run: Run, tasks: Sequence[Task]) -> None:
    """Fetch all, and those that could not be written once more."""
    failed = {shard for written, shard in run(tasks) if not written}
    if failed:
        again = [(downloader, shard) for downloader, shard in tasks if shard in failed]
        for _ in run(again):
            pass


def read_urls(path: Path) -> Iterator[tuple[str, str]]:
    """The rows (key, url) of a parquet file with columns `row` and `url`."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[ROW_COLUMN, "url"]):
            yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def second_pass(spec: DownloadSpec, job: Job) -> Iterator[Task]:
    """The shards of what failed in `job` and may not fail again."""
    again = list(to_retry(job.first, read_urls(job.urls), spec.samples_per_shard))
    if not again:
        return iter(())
    rows, urls = zip(*again, strict=True)
    pq.write_table(pa.table({ROW_COLUMN: list(rows), "url": list(urls)}), job.again)
    return shards_of(spec, job.again, job.second)


def download(spec: DownloadSpec) -> None:
    """Fetch what the spec says, then once more what may have failed in passing; finished shards stay."""
    spec = shared(spec, spec.processes if spec.ray_address is None else _cores(spec.ray_address))
    first = [task for job in spec.jobs for task in shards_of(spec, job.urls, job.first)]
    with shard_runner(spec, len(first)) as run:
        fetch_shards(run, first)
        if any(unwritten(spec, job) for job in spec.jobs):
            return  # whoever started us says so
        fetch_shards(run, [task for job in spec.jobs for task in second_pass(spec, job)])
    for job in spec.jobs:
        job.done.touch()


def main(spec_file: str) -> int:
    """Fetch what the spec says; the exit status is `WORKER_LOST` when a worker died and the rest is to be had."""
    _end_with_pipe()
    spec = from_plain(DownloadSpec, json.loads(Path(spec_file).read_text()), "SPEC.json")
    try:
        download(spec)
    except BrokenProcessPool:
        return WORKER_LOST
    return 0
