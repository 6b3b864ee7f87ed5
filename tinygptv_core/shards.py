"""The samples of one data set, read from its shards by its index; without torch, so that a page can show them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Turn
from tinygptv_core.run import DataFolders

INDEX_COLUMNS = ("shard", "image", "image_bytes", "text", "text_bytes")
SHARED_COLUMNS = (*INDEX_COLUMNS, "image_shard")
"""Of a data set whose pictures lie in picture sets: beside the others, which of their tars each is in."""


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


class ShardSet:
    """The kept samples of one data set, in the order of its index; read from the tars when asked for.

    Raises:
        ConfigError: a file of the index or of the shards is missing.
        ValueError: the index does not have its columns.
    """

    def __init__(self, folders: DataFolders):
        try:
            names = json.loads((folders.index / "shards.json").read_text())
            self.records = np.load(folders.index / "samples.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename} is missing; an index has it (docs/map.md)") from error
        if self.records.dtype.names not in (INDEX_COLUMNS, SHARED_COLUMNS):
            raise ValueError(f"{folders.index} has the columns {self.records.dtype.names}, not {INDEX_COLUMNS}")
        self.shards = tuple(folders.shards / name for name in names)
        self._pictures = _picture_tars(folders) if self.records.dtype.names == SHARED_COLUMNS else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> Sample:
        """The sample at `position`, 0 <= position < len.

        Raises:
            ValueError: the shard is shorter than its index says.
        """
        shard, image, image_bytes, text, text_bytes, *shared = self.records[position].item()
        descriptor = os.open(self.shards[shard], os.O_RDONLY)
        try:
            told = json.loads(_read(descriptor, text, text_bytes, self.shards[shard]))
            own = image_bytes and not shared
            picture = _read(descriptor, image, image_bytes, self.shards[shard]) if own else None
        finally:
            os.close(descriptor)
        if image_bytes and self._pictures is not None:
            picture = _read_from(self._pictures[shared[0]], image, image_bytes)
        turns = tuple(Turn(role, text, tuple(also)) for role, text, *also in told["turns"])
        return Sample(key=told["key"], picture=picture, turns=turns, split=told["split"], group=told["group"])


def _picture_tars(folders: DataFolders) -> tuple[Path, ...]:
    """The tars of the data set's picture sets, as its index numbers them.

    Raises:
        ConfigError: a set is not among the folders.
    """
    named = [name.split("/") for name in json.loads((folders.index / "pictures.json").read_text())]
    if missing := sorted({name for name, _ in named} - folders.pictures.keys()):
        raise ConfigError(f"{folders.index} reads the picture set {missing[0]}, whose folder is not given")
    return tuple(folders.pictures[name] / tar for name, tar in named)


def _read_from(path: Path, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _read(descriptor, offset, size, path)
    finally:
        os.close(descriptor)


def _read(descriptor: int, offset: int, size: int, path: Path) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise ValueError(f"{path} ends within a sample: {size} bytes wanted at {offset}, {len(data)} there")
    return data
