"""The samples of one data set, read from its shards by its index; without torch, so that a page can show them."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygptv_core.file_systems import file_system_of
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Turn
from tinygptv_core.run import DataFolders

INDEX_COLUMNS = ("row", "shard", "image", "image_bytes", "text", "text_bytes")
SHARED_COLUMNS = (*INDEX_COLUMNS, "image_shard")
"""Of a data set whose pictures lie in picture sets: beside the others, which of their tars each is in."""


def write_index(columns_NC: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Write a record for each of N samples, of C columns so named; the numbers of shards are int32, others int64."""
    rows = np.empty(len(columns_NC), dtype=[(name, np.int32 if name.endswith("shard") else np.int64) for name in names])
    for column, name in enumerate(names):
        rows[name] = columns_NC[:, column]
    np.save(path, rows)


TEXTS_AT_ONCE = 1_000


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
    """Bytes of a file, which has a path or a URL."""

    file: str
    start: int
    num_bytes: int


class ShardSet:
    """The kept samples of one data set, in the order of its index; read from the tars when asked for.

    The index stays on the disk, and of a tar only what is asked for is read.

    Raises:
        ConfigError: a file of the index or of the shards is missing, the index does not have its columns, the folder
            of a picture set is not given, or nothing here reads such URLs.
    """

    def __init__(self, folders: DataFolders):
        try:
            names = json.loads((folders.index / "shards.json").read_text())
            self.records = np.load(folders.index / "samples.npy", mmap_mode="r")
            self._pictures = _picture_tars(folders) if self.records.dtype.names == SHARED_COLUMNS else None
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename} is missing; an index has it (docs/map.md)") from error
        if self.records.dtype.names not in (INDEX_COLUMNS, SHARED_COLUMNS):
            found = f"{folders.index} has the columns {self.records.dtype.names}, not {INDEX_COLUMNS}"
            raise ConfigError(f"{found}: another version made it.\n  to have it anew  tinygptv data NAME")
        self.shards = tuple(f"{folders.shards}/{name}" for name in names)
        for folder in filter(_is_url, map(str, (folders.shards, *folders.pictures.values()))):
            file_system_of(folder)

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
            _, shard, image, image_bytes, text, text_bytes, *shared = self.records[position].item()
            tar = self.shards[shard]
            picture_tar = self._pictures[shared[0]] if self._pictures and image_bytes else tar
            wanted += [Part(picture_tar, image, image_bytes), Part(tar, text, text_bytes)]
        found = _read({part for part in wanted if part.num_bytes})
        parts = iter([found.get(part) for part in wanted])
        return [_sample(picture, text) for picture, text in zip(parts, parts, strict=True)]

    def texts(self) -> Iterator[Sample]:
        """Every sample without its picture, in order; reads none. Raises as `read` does."""
        for begin in range(0, len(self), TEXTS_AT_ONCE):
            places = self.records[["shard", "text", "text_bytes"]][begin : begin + TEXTS_AT_ONCE].tolist()
            parts = [Part(self.shards[shard], start, num_bytes) for shard, start, num_bytes in places]
            found = _read(set(parts))
            yield from (_sample(None, found[part]) for part in parts)

    @property
    def rows(self) -> Any:
        """row_N: which row of the ledger each sample is, ascending. It stays on the disk."""
        return self.records["row"]


def _sample(picture: bytes | None, said: bytes | None) -> Sample:
    try:
        told = json.loads(said or b"")
        turns = tuple(Turn(role, text, tuple(also)) for role, text, *also in told["turns"])
        return Sample(key=told["key"], picture=picture, turns=turns, split=told["split"], group=told["group"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"where the index has a sample's text stands {(said or b'')[:40]!r}") from error


def _picture_tars(folders: DataFolders) -> tuple[str, ...]:
    """The tars of the data set's picture sets, as its index numbers them.

    Raises:
        ConfigError: a set is not among the folders.
    """
    named = [name.split("/") for name in json.loads((folders.index / "pictures.json").read_text())]
    if missing := sorted({name for name, _ in named} - folders.pictures.keys()):
        raise ConfigError(f"{folders.index} reads the picture set {missing[0]}, whose folder is not given")
    return tuple(f"{folders.pictures[name]}/{tar}" for name, tar in named)


def _is_url(path: str) -> bool:
    """Whether it is no path of this machine."""
    return "://" in path


def _read(wanted: set[Part]) -> dict[Part, bytes]:
    """The bytes of every part; in the order of the files, those elsewhere all at once."""
    here, elsewhere = (sorted(part for part in wanted if _is_url(part.file) == kind) for kind in (False, True))
    try:
        found = dict(zip([*here, *elsewhere], [*_local(here), *_remote(elsewhere)], strict=True))
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename or error} is missing; shards have it (docs/map.md)") from error
    for part, data in found.items():
        if len(data) != part.num_bytes:
            there = f"{part.num_bytes} bytes wanted at {part.start}, {len(data)} there"
            why = "ends within a sample" if len(data) < part.num_bytes else "lies where no parts of files can be had"
            raise ValueError(f"{part.file} {why}: {there}")
    return found


def _local(wanted: Sequence[Part]) -> Iterator[bytes]:
    for file, parts in groupby(wanted, key=lambda part: part.file):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            yield from [os.pread(descriptor, part.num_bytes, part.start) for part in parts]
        finally:
            os.close(descriptor)


def _remote(wanted: Sequence[Part]) -> Iterator[bytes]:
    for files, parts in groupby(wanted, key=lambda part: file_system_of(part.file)[0]):
        ranges = ((file_system_of(part.file)[1], part.start, part.num_bytes) for part in parts)
        paths, starts, sizes = zip(*ranges, strict=True)
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        yield from files.cat_ranges(list(paths), list(starts), ends, on_error="raise")
