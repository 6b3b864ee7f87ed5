"""Our fetch against bare img2dataset, on the same server on loopback: pictures per second, as a ratio.

python -m benchmarks.fetching
python -m benchmarks.fetching --pictures 8000 --rounds 5

Both fetch the same URLs, a tenth of them dead, with the same processes, threads and size of pictures. Ours does more: a
guard on every connection, a second look at what may have failed in passing, a ledger, tars in the list's order, and
their digest. Both must end with the same number of pictures, or the run ends with exit code 1.
"""

import argparse
import asyncio
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.build import Store
from tasks.fetch import FetchOptions
from tasks.request import StepFolders
from tasks.segments import FetchTarget, SegmentStore, fetch_urls
from tasks.tables import ROWS_FILE, TableRow, TableWriter, read_counts
from tinygptv_core.artifact import Artifact
from tinygptv_core.settings import Fetch

GOAL = 0.9
"""How fast ours is at least, by bare img2dataset's speed."""
BARE, OURS = "bare img2dataset", "ours"
PROCESSES, THREADS, PER_SHARD, SIDE = 2, 16, 500, 224
WIDTH, HEIGHT = 640, 480
DEAD_OF = 10


@dataclass(frozen=True, kw_only=True)
class Took:
    """What one fetch took, its start and its end included: of the clock, and of all its processes together."""

    pictures: int
    seconds: float
    cpu_seconds: float


@contextmanager
def serving() -> Iterator[str]:
    """A server in a process of its own: a picture at every path, but none where the number ends in 0."""
    ours, theirs = get_context("spawn").Pipe()
    server = get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        server.kill()
        server.join()


def _serve(port: Connection) -> None:
    # Soft noise, so that a file has about the size of a photograph's.
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    found, missing = _answer("200 OK", file.getvalue()), _answer("404 Not Found", b"")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        writer.write(missing if int(path[1:]) % DEAD_OF == 0 else found)
        await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def _answer(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def bare(urls: Path, folder: Path) -> int:
    """Fetch as img2dataset's own documentation says."""
    import img2dataset

    img2dataset.download(
        url_list=str(urls),
        input_format="parquet",
        output_folder=str(folder / "bare"),
        output_format="webdataset",
        processes_count=PROCESSES,
        thread_count=THREADS,
        image_size=SIDE,
        resize_mode="border",
        number_sample_per_shard=PER_SHARD,
        compute_hash="sha256",
        enable_wandb=False,
    )
    return sum(json.loads(path.read_text())["successes"] for path in (folder / "bare").glob("*_stats.json"))


def ours(urls: Path, folder: Path) -> int:
    """Fetch as a run does, from a table to an artifact of the store."""
    folders = StepFolders(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    for path in (folder / "table", folders.out, folders.scratch, folders.notes):
        path.mkdir(parents=True)
    with TableWriter(folder / "table" / ROWS_FILE, TableRow) as writer:
        for number, url in enumerate(pq.read_table(urls)["url"].to_pylist()):
            turns = json.dumps([["assistant", f"picture {number}"]])
            writer.write(TableRow(key=f"{number:09d}", url=url, file=None, turns=turns, split=None, group=None))
    limits = {"timeout_seconds": 10, "total_seconds": 30, "max_bytes": 20_000_000}
    limits["per_host"] = PROCESSES * THREADS  # the one server stands for the many hosts of a list
    settings = Fetch(image_size=SIDE, resize_mode="border", samples_per_shard=PER_SHARD, **limits)
    options = FetchOptions(
        allow_hosts=("127.0.0.1",),
        hosts={},
        processes=PROCESSES,
        threads=THREADS,
        ray_address=None,
        progress=lambda done, total, text: None,
    )
    table = Artifact(kind="table", digest="0" * 64, path=folder / "table")
    segment_store = SegmentStore(store=Store(folder / "store"), noted={"run": "benchmark", "time": 0.0})
    fetch_urls(
        FetchTarget(name="web", settings=settings, pictures=None, allowed={}), table, options, folders, segment_store
    )
    return read_counts(folders.out)["kept"]


def took(way: Callable[[Path, Path], int], urls: Path) -> Took:
    """Fetch once, in a process of its own."""
    ours, theirs = get_context("spawn").Pipe()
    with TemporaryDirectory() as folder:
        process = get_context("spawn").Process(target=_timed, args=(way, urls, Path(folder), theirs))
        process.start()
        theirs.close()
        found: Took = ours.recv()
        process.join()
    return found


def _timed(way: Callable[[Path, Path], int], urls: Path, folder: Path, answer: Connection) -> None:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # which would ask the network for its newest version
    began = time.monotonic()
    with (folder / "log").open("w") as log, _printing_into(log.fileno()):
        pictures = way(urls, folder)
    seconds = time.monotonic() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(item.ru_utime + item.ru_stime for item in used)
    answer.send(Took(pictures=pictures, seconds=seconds, cpu_seconds=cpu_seconds))


@contextmanager
def _printing_into(descriptor: int) -> Iterator[None]:
    """What this process and those that it starts print goes into a file."""
    kept = os.dup(1), os.dup(2)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        yield
    finally:
        for stream, own in zip((1, 2), kept, strict=True):
            os.dup2(own, stream)


def measured(pictures: int, rounds: int) -> dict[str, Took]:
    """The quickest of each way's fetches of `pictures` URLs, in `rounds` in which they take turns."""
    found: dict[str, list[Took]] = {BARE: [], OURS: []}
    with serving() as url, TemporaryDirectory() as folder:
        urls = Path(folder, "urls.parquet")
        pq.write_table(pa.table({"url": [f"{url}/{number}" for number in range(pictures)]}), urls)
        for _ in range(rounds):
            for name, way in ((BARE, bare), (OURS, ours)):
                found[name].append(took(way, urls))
    return {name: min(times, key=lambda item: item.seconds) for name, times in found.items()}


HEAD = (
    "| way | pictures | pictures/s | speed | processor seconds | goal |",
    "| --- | --- | --- | --- | --- | --- |",
)


def report(found: dict[str, Took]) -> list[str]:
    """A row of the table for each way."""
    speeds = {name: item.pictures / item.seconds for name, item in found.items()}
    return [
        f"| {name} | {item.pictures} | {speeds[name]:.0f} | {speeds[name] / speeds[BARE]:.2f} x "
        f"| {item.cpu_seconds:.1f} | {f'{GOAL} x' if name == OURS else ''} |"
        for name, item in found.items()
    ]


def main(arguments: Sequence[str]) -> int:
    """Print the table. Returns 0, or 1 where the two did not get the same pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fetching")
    parser.add_argument("--pictures", type=int, default=6_000, help="URLs (6000)")
    parser.add_argument("--rounds", type=int, default=3, help="in which the ways take turns (3)")
    given = parser.parse_args(arguments)
    found = measured(given.pictures, given.rounds)
    print(*HEAD, *report(found), sep="\n", flush=True)
    if found[BARE].pictures != found[OURS].pictures:
        print(f"{BARE} has {found[BARE].pictures} pictures, ours {found[OURS].pictures}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
