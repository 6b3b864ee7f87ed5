"""Find the samples of shards in their tars, and spread work over these: over processes here, or a Ray cluster."""

import logging
import multiprocessing
import pickle
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Located:
    """One sample of a tar: its key, and offset and size in the tar of its picture (0, 0 for none) and its text."""

    key: str
    image: tuple[int, int]
    text: tuple[int, int]


def samples_in(tar: Path) -> Iterator[Located]:
    """Every sample of a tar, in order."""
    with tarfile.open(tar) as archive:
        for key, members in groupby(archive, key=lambda member: member.name.partition(".")[0]):
            image, text = (0, 0), (0, 0)
            for member in members:
                if member.name == f"{key}.json":
                    text = member.offset_data, member.size
                else:
                    image = member.offset_data, member.size
            yield Located(key=key, image=image, text=text)


def read_at(tar: BinaryIO, place: tuple[int, int]) -> bytes:
    """The bytes at (offset, size) of an opened tar."""
    tar.seek(place[0])
    return tar.read(place[1])


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who does work over shards. It bears on nothing that comes out.

    Attributes:
        processes: on this machine, each with a tar at a time.
        least_bytes: what the tars must hold together before it is worth starting processes, which takes a second.
        ray: connects to the Ray cluster that does the work instead.
    """

    processes: int
    least_bytes: int
    ray: Callable[[], object] | None


def over_tars(work: Callable[[Path], R], tars: Sequence[Path], sharing: Sharing) -> Iterator[R]:
    """`work(tar)` of every tar, in the order of the tars; `work` and its results are pickled.

    Raises:
        RuntimeError: a process that worked on them was killed.
    """
    if sharing.ray is not None:
        sharing.ray()
        return _on_ray(work, tars)
    few = min(sharing.processes, len(tars)) < 2 or sum(tar.stat().st_size for tar in tars) < sharing.least_bytes
    return map(work, tars) if few else _in_processes(work, tars, sharing.processes)


def _in_processes(work: Callable[[Path], R], tars: Sequence[Path], processes: int) -> Iterator[R]:
    # A fork would copy the locks that the threads of this process happen to hold.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tars)), mp_context=spawned) as pool:
        try:
            yield from pool.map(work, tars)
        except BrokenProcessPool as error:
            raise RuntimeError("a process that looked at shards was killed; was there too little memory?") from error


def _on_ray(work: Callable[[Path], R], tars: Sequence[Path]) -> Iterator[R]:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every execution, and of our setting below
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"tar": str(tar)} for tar in tars], override_num_blocks=len(tars))
    for row in rows.map(partial(_pickled, work)).iter_rows():
        yield pickle.loads(row["result"])


def _pickled(work: Callable[[Path], Any], row: dict[str, Any]) -> dict[str, Any]:
    return {"result": pickle.dumps(work(Path(row["tar"])))}
