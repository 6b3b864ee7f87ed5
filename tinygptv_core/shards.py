"""The samples of one data set, read from its shards by its index; without torch, so that a page can show them."""

import json
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Turn
from tinygptv_core.run import DataFolders

INDEX_COLUMNS = ("shard", "image", "image_bytes", "text", "text_bytes")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample as the shards hold it.

    Attributes:
        picture: the bytes of an encoded picture; None for text alone.
        split, group: what an evaluation chooses and groups by.
    """

    key: str
    picture: bytes | None
    turns: tuple[Turn, ...]
    split: str | None
    group: str | None


class Part(NamedTuple):
    """Bytes of one of the tars."""

    tar: str
    start: int
    num_bytes: int


Reader = Callable[[Sequence[Part]], list[bytes]]


class ShardSet:
    """The kept samples of one data set, in the order of its index; read from the tars when asked for.

    The index stays on the disk, and of a tar only what is asked for is read.

    Raises:
        ConfigError: a file of the index or of the shards is missing, or nothing here reads such URLs.
        ValueError: the index does not have its columns, or names a shard that there is not.
    """

    def __init__(self, folders: DataFolders):
        try:
            names = json.loads((folders.index / "shards.json").read_text())
            self.records = np.load(folders.index / "samples.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename} is missing; an index has it (docs/map.md)") from error
        if self.records.dtype.names != INDEX_COLUMNS:
            raise ValueError(f"{folders.index} has the columns {self.records.dtype.names}, not {INDEX_COLUMNS}")
        self._folder = str(folders.shards)
        self._names: tuple[str, ...] = tuple(names)
        self._parts = (_remote_reader if "://" in self._folder else _local_reader)(self._folder)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> Sample:
        """The sample at `position`, 0 <= position < len. Raises as `read` does."""
        return self.read([position])[0]

    def read(self, positions: Sequence[int]) -> list[Sample]:
        """The samples at `positions`, all asked for at once.

        Raises:
            ConfigError: a shard is missing.
            ValueError: a shard is shorter than its index says, or has something else there.
        """
        wanted: list[Part] = []
        for position in positions:
            shard, image, image_bytes, text, text_bytes = self.records[position].item()
            tar = self._names[shard]
            wanted += [Part(tar, image, image_bytes), Part(tar, text, text_bytes)]
        found = self._read([part for part in wanted if part.num_bytes])
        parts = iter([next(found) if part.num_bytes else None for part in wanted])
        return [_sample(picture, text) for picture, text in zip(parts, parts, strict=True)]

    def samples_per_shard(self) -> np.ndarray:
        """How many samples of the index each shard has; looks at a few records of each alone.

        Raises:
            ValueError: the index names a shard that there is not.
        """
        shard_N, starts = self.records["shard"], [0]
        for shard in range(len(self._names)):
            starts.append(bisect_left(shard_N, shard + 1, lo=starts[-1]))
        if starts[-1] != len(self):
            raise ValueError(f"the index of {self._folder} names shards after {self._names[-1:]}, the last")
        return np.array([end - start for start, end in pairwise(starts)], dtype=np.int64)

    def _read(self, wanted: Sequence[Part]) -> Iterator[bytes]:
        try:
            found = self._parts(wanted)
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename or error} is missing; shards have it (docs/map.md)") from error
        for part, data in zip(wanted, found, strict=True):
            if len(data) != part.num_bytes:
                raise ValueError(
                    f"{self._folder}/{part.tar} ends within a sample: {part.num_bytes} bytes wanted at {part.start}, "
                    f"{len(data)} there"
                )
            yield data


def _sample(picture: bytes | None, text: bytes | None) -> Sample:
    try:
        told = json.loads(text or b"")
        turns = tuple(Turn(role, words) for role, words in told["turns"])
        return Sample(key=told["key"], picture=picture, turns=turns, split=told["split"], group=told["group"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"where the index has a sample's text stands {(text or b'')[:40]!r}") from error


def _local_reader(folder: str) -> Reader:
    def read(wanted: Sequence[Part]) -> list[bytes]:
        found: list[bytes] = []
        for tar, parts in groupby(wanted, key=lambda part: part.tar):
            descriptor = os.open(f"{folder}/{tar}", os.O_RDONLY)
            try:
                found += [os.pread(descriptor, part.num_bytes, part.start) for part in parts]
            finally:
                os.close(descriptor)
        return found

    return read


def _remote_reader(url: str) -> Reader:
    import fsspec

    try:
        files, folder = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"shards at {url} cannot be read: {error}") from error

    def read(wanted: Sequence[Part]) -> list[bytes]:
        starts, ends = [part.start for part in wanted], [part.start + part.num_bytes for part in wanted]
        return files.cat_ranges([f"{folder}/{part.tar}" for part in wanted], starts, ends, on_error="raise")

    return read
