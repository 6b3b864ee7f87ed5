"""Run img2dataset in a process group of its own, tell how far it is, and stop it when nothing can be had.

`tasks/fetching/download.py` is what runs in there.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from tasks.fetching.guard import Rules
from tasks.fetching.outcomes import finished_shards, forget, is_whole, progress_file, progress_of
from tasks.shortages import NO_ROOM_WORDS
from tasks.tables import KEPT, num_rows
from tinygptv_core.plain import plain

POLL_SECONDS = 0.1
LOG_TAIL_CHARACTERS = 2_000
LOG_FILE = "img2dataset.log"
ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",  # or it asks the network for its newest version whenever it is imported
    "OMP_NUM_THREADS": "1",
    "RES_OPTIONS": "timeout:3 attempts:2",  # of the C library's resolver, which knows no other limit
}
"""Of every process that fetches."""
WORKER_LOST = 3
"""The exit status of a process one of whose workers was killed, by the system for memory, say."""
MAX_STARTS = 3
RECENT_ROWS = 1_000
"""Over so many rows the share of pictures that could be had is watched; a shorter list is fetched to its end."""
PAGE_REASON = "undecodable"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A list of URLs to fetch: a parquet file with columns `row` and `url`, and the folder for what comes."""

    urls: Path
    folder: Path

    @property
    def first(self) -> Path:
        """What img2dataset writes about all rows."""
        return self.folder / "first"

    @property
    def again(self) -> Path:
        """The rows whose failure may have gone by; written by the process."""
        return self.folder / "again.parquet"

    @property
    def second(self) -> Path:
        """What img2dataset writes about the rows in `again`."""
        return self.folder / "second"

    @property
    def done(self) -> Path:
        """Exists when all of it is there."""
        return self.folder / "done"


@dataclass(frozen=True, kw_only=True)
class DownloadSpec:
    """What crosses to the process that runs img2dataset.

    Attributes:
        processes: of this machine.
        rules: for all processes together; `shared` gives each its part.
        ray_address: the cluster that fetches; None fetches with processes of this machine.
    """

    jobs: tuple[Job, ...]
    image_size: int | None
    resize_mode: str
    timeout_seconds: int
    samples_per_shard: int
    processes: int
    threads: int
    rules: Rules
    ray_address: str | None


def shared(spec: DownloadSpec, processes: int) -> DownloadSpec:
    """`spec` for at most so many processes, which have among them the requests that a host may get at a time."""
    # More processes than such requests would each get one all the same.
    processes = min(processes, spec.rules.per_host)
    return replace(spec, processes=processes, rules=replace(spec.rules, per_host=spec.rules.per_host // processes))


def unwritten(spec: DownloadSpec, job: Job) -> list[int]:
    """The shards of `job` that are not finished."""
    shards = -(-num_rows(job.urls) // spec.samples_per_shard)
    return sorted(set(range(shards)) - finished_shards(job.first).keys())


def forget_damaged(job: Job, samples_per_shard: int) -> None:
    """Have the shards fetched again that were finished, and whose files are not whole."""
    if not _all_whole(job.first, num_rows(job.urls), samples_per_shard):
        job.done.unlink(missing_ok=True)
        shutil.rmtree(job.second, ignore_errors=True)  # other rows may have to be tried again
        job.again.unlink(missing_ok=True)
    elif (job.again.exists() or job.second.exists()) and not _is_second_whole(job, samples_per_shard):
        job.done.unlink(missing_ok=True)


def _all_whole(folder: Path, rows: int, samples_per_shard: int) -> bool:
    """Whether all shards of so many rows are there and whole; those that are not whole are forgotten."""
    finished = finished_shards(folder)
    damaged = {shard for shard, told in finished.items() if not is_whole(folder, shard, told)}
    for shard in damaged:
        forget(folder, shard)
    return finished.keys() - damaged == set(range(-(-rows // samples_per_shard)))


def _is_second_whole(job: Job, samples_per_shard: int) -> bool:
    import pyarrow as pa

    try:
        rows = num_rows(job.again)
    except (pa.ArrowException, OSError):
        rows = 0
    return _all_whole(job.second, rows, samples_per_shard) and rows > 0


class SuccessMonitor:
    """Tells when hardly any picture can be had any more.

    Args:
        min_success: the least share of pictures among the last `RECENT_ROWS` rows, 0..1; 0 never complains.
    """

    def __init__(self, fates: Counter[str], min_success: float) -> None:
        self.min_success = min_success
        self.seen = deque([fates])

    def collapsed(self, fates: Counter[str]) -> Counter[str] | None:
        """The fates of the rows since some moment at least `RECENT_ROWS` rows ago, if too few of them were had."""
        self.seen.append(fates)
        while len(self.seen) > 2 and fates.total() - self.seen[1].total() >= RECENT_ROWS:
            self.seen.popleft()
        recent = fates - self.seen[0]
        is_low = recent[KEPT] < self.min_success * recent.total()
        return recent if is_low and recent.total() >= RECENT_ROWS else None


def run_img2dataset(
    spec: DownloadSpec, folder: Path, log_file: Path, min_success: float, progress: Callable[[Counter[str]], None]
) -> None:
    """Fetch every job of `spec` whose `done` is not there; what is finished of the others stays.

    Args:
        folder: for the spec.
        progress: told now and then the fates of the rows that were tried.

    Raises:
        RuntimeError: it ended with an error, or hardly any picture could be had; no row is dropped for that.
        OSError: the disk is full (ENOSPC); names the folder.
    """
    for job in spec.jobs:
        _forget_unfinished(job.first)
    spec_file = folder / "spec.json"
    spec_file.write_text(json.dumps(plain(spec)))
    starts, status = 0, WORKER_LOST
    while status == WORKER_LOST and starts < MAX_STARTS:
        starts, status = starts + 1, _run_once(spec, spec_file, log_file, min_success, progress)
    for job in spec.jobs:
        if missing := unwritten(spec, job):
            job.done.unlink(missing_ok=True)  # a full disk, or too little memory
            if NO_ROOM_WORDS[0] in log_file.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]:
                raise OSError(errno.ENOSPC, NO_ROOM_WORDS[0], str(job.folder))
            raise RuntimeError(
                f"img2dataset did not finish {len(missing)} of {len(missing) + len(finished_shards(job.first))} "
                f"shards; see {log_file}. Run it again."
            )
    if status != 0 or not all(job.done.exists() for job in spec.jobs):
        tail = log_file.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
        raise RuntimeError(f"img2dataset ended with code {status}; the end of {log_file}:\n{tail}")


def _forget_unfinished(folder: Path) -> None:
    """Of shards that are not finished no row counts as tried."""
    finished = finished_shards(folder)
    for path in folder.glob("*.progress"):
        if int(path.stem) not in finished:
            path.unlink()


def _run_once(
    spec: DownloadSpec, spec_file: Path, log_file: Path, min_success: float, progress: Callable[[Counter[str]], None]
) -> int:
    monitor, recent = SuccessMonitor(_fates(spec), min_success), None
    command = [sys.executable, "-m", "tasks.fetching.download_process", str(spec_file)]
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command if spec.ray_address is None else [*command, "ray"],
            stdin=subprocess.PIPE,  # it ends when this closes, so also when we are killed
            stdout=log,
            stderr=log,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and recent is None:
                fates = _fates(spec)
                progress(fates)
                recent = monitor.collapsed(fates)
                time.sleep(POLL_SECONDS)
        finally:
            _end_group(process)
    if recent is not None:
        _forget_collapsed(spec, min_success)
        raise RuntimeError(_collapse(recent))
    return process.returncode


def _fates(spec: DownloadSpec) -> Counter[str]:
    return sum((progress_of(job.first) for job in spec.jobs), Counter[str]())


def _forget_collapsed(spec: DownloadSpec, min_success: float) -> None:
    """Have shards fetched again that were finished while hardly anything could be had."""
    for job in spec.jobs:
        for shard in finished_shards(job.first):
            fates: dict[str, int] = json.loads(progress_file(job.first, shard).read_text())
            if fates.get(KEPT, 0) < min_success * sum(fates.values()):
                forget(job.first, shard)


def _collapse(recent: Counter[str]) -> str:
    why = ", ".join(f"{reason} {count}" for reason, count in recent.most_common() if reason != KEPT)
    page = " The same page in place of every picture is what a proxy or a login gives." * (
        recent[PAGE_REASON] > recent.total() // 2
    )
    return (
        f"of the last {recent.total()} pictures {recent[KEPT]} could be had: {why}.{page}\n"
        "  look whether this machine is online and which way it goes; no row was dropped for it\n"
        "  a list that is no better than this is fetched with --set data.NAME.fetch.min_success=0"
    )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and of those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    pipe: IO[bytes] | None = process.stdin
    if pipe is not None:
        pipe.close()
