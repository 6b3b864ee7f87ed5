"""Find the samples of shards in their tars, and spread work over these: over processes here, or a Ray cluster."""

import json
import logging
import multiprocessing
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tasks.picture_sets import PLACES_FILE, TARS_FILE
from tasks.tables import KEPT, LEDGER_FILE

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class SampleLocation:
    """One sample of a tar: its key, and offset and size in the tar of its picture (0, 0 for none) and its text.

    `image_shard` is the number of the tar that its picture is in, where that lies in a picture set (-1 for none).
    """

    key: str
    image: tuple[int, int]
    text: tuple[int, int]
    image_shard: int | None = None


def samples_in(tar: Path) -> list[SampleLocation]:
    """Every sample of one of a data set's tars, in order."""
    samples = list(_members(tar))
    if not (tar.parent / PLACES_FILE).is_file():
        return samples
    import numpy as np

    places = np.load(tar.parent / PLACES_FILE, mmap_mode="r")[_num_before(tar.parent / LEDGER_FILE, samples[0].key) :]
    return [
        replace(sample, image=(offset, size), image_shard=shard)
        for sample, (shard, offset, size) in zip(samples, places[: len(samples)].tolist(), strict=True)
    ]


def _members(tar: Path) -> Iterator[SampleLocation]:
    with tarfile.open(tar) as archive:
        for key, members in groupby(archive, key=lambda member: member.name.partition(".")[0]):
            image, text = (0, 0), (0, 0)
            for member in members:
                if member.name == f"{key}.json":
                    text = member.offset_data, member.size
                else:
                    image = member.offset_data, member.size
            yield SampleLocation(key=key, image=image, text=text)


def _num_before(ledger: Path, key: str) -> int:
    """How many samples of a data set stand before the one of that key."""
    import pyarrow.parquet as pq

    return pq.read_table(ledger, columns=["key"], filters=[("fate", "==", KEPT), ("key", "<", key)]).num_rows


class SampleReader:
    """A data set's tar, opened to read samples from it, and from the tars of the picture sets that it is about.

    Args:
        sets: picture set -> the folder of its **pictures** artifact.
    """

    def __init__(self, tar: Path, sets: Mapping[str, Path]) -> None:
        self.stack = ExitStack()
        self.tar = self.stack.enter_context(tar.open("rb"))
        named = json.loads((tar.parent / TARS_FILE).read_text()) if sets else []
        self.paths = [sets[name] / file for name, file in (item.split("/") for item in named)]
        self.files: dict[int, BinaryIO] = {}

    def text(self, sample: SampleLocation) -> bytes:
        """The JSON of a sample."""
        return _read_at(self.tar, *sample.text)

    def picture(self, sample: SampleLocation) -> bytes:
        """The encoded picture of a sample; nothing for text alone."""
        if sample.image_shard is None or not sample.image[1]:
            return _read_at(self.tar, *sample.image)
        if sample.image_shard not in self.files:
            path = self.paths[sample.image_shard]
            self.files[sample.image_shard] = self.stack.enter_context(path.open("rb"))
        return _read_at(self.files[sample.image_shard], *sample.image)

    def __enter__(self) -> "SampleReader":
        return self

    def __exit__(self, *raised: object) -> None:
        self.stack.close()


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


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
        RuntimeError: a process of this machine that worked on them was killed.
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
