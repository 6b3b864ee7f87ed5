"""Vision tokens that are kept: what the frozen tower and Q-Former make of a picture, computed once, read many times.

A folder of them holds `datasets.json` (whose pictures they are), `pictures.npy` (uint8, P x 32: the SHA-256 of each
distinct picture's file, ascending) and `queries.npy` (P x Q x E: float32, or float16 for a stage in 16 bits).
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from tinygptv_core.compute import Compute, Precision, Progress
from tinygptv_core.image import squashed
from tinygptv_core.plain import ConfigError
from tinygptv_core.precision import autocast, dtype_of
from tinygptv_core.shards import ShardSet

if TYPE_CHECKING:  # processes that read ahead have this module, and start in half the time without a model
    from tinygptv_core.model import TinyGPTV

# Shape letters of this file: P distinct pictures, Q image queries, E width of the Q-Former, H = W side in pixels.

# Fixed, and not an option: the last bits of a sum depend on the shape of a batch.
PICTURES_AT_ONCE = 64

DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """How pictures are looked at: the side of the square that the tower sees, in pixels, and its precision."""

    image_size: int
    precision: Precision


SamplePosition = tuple[str, int]
"""(data set, position in its index)."""


class Features:
    """The kept vision tokens in `folder`.

    Attributes:
        datasets: the data sets whose pictures are all here.

    Raises:
        ConfigError: a file is missing.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            self.datasets = frozenset(json.loads((folder / "datasets.json").read_text()))
            self._pictures = np.load(folder / "pictures.npy", mmap_mode="r")
            self._queries = np.load(folder / "queries.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename} is missing; features have it (docs/map.md)") from error

    def of(self, pictures: Sequence[bytes]) -> Tensor:
        """queries_PQE of these pictures (encoded files), as `encode_pictures` would give them.

        Raises:
            ValueError: one is not here.
        """
        return torch.from_numpy(np.stack([self._queries[self._place(picture)] for picture in pictures]))

    def _place(self, picture: bytes) -> int:
        digest = hashlib.sha256(picture).digest()
        place = bisect_left(range(len(self._pictures)), digest, key=lambda row: self._pictures[row].tobytes())
        if place == len(self._pictures) or self._pictures[place].tobytes() != digest:
            raise ValueError(f"{self._folder} lacks the picture with SHA-256 {digest.hex()}")
        return place


def encode_pictures(model: "TinyGPTV", pictures: Sequence[bytes], settings: EncodingSettings) -> Tensor:
    """queries_PQE of the pictures (encoded files), on the model's device.

    Raises:
        ValueError: one of them is no picture which can be read.
    """
    device = next(model.parameters()).device
    seen: list[Tensor] = []
    with torch.inference_mode(), autocast(settings.precision, device):
        for start in range(0, len(pictures), PICTURES_AT_ONCE):
            images_B3HW = squashed(pictures[start : start + PICTURES_AT_ONCE], settings.image_size)
            seen.append(model.encode_images(torch.from_numpy(images_B3HW).to(device)))
    return torch.cat(seen)


def write_features(
    backbones: Path,
    data: Mapping[str, ShardSet],
    settings: EncodingSettings,
    compute: Compute,
    folder: Path,
    progress: Progress,
) -> None:
    """Write the features of every distinct picture of `data` to `folder`, in the order of their SHA-256.

    Each thread looks at some pictures alone: faster than many on the same, and no bit depends on how many they are.

    Raises:
        ConfigError: there is no picture in any of the data sets, or a shard or a file of the backbones is missing.
        ValueError: a picture cannot be read, or a shard or the backbones do not hold what they should.
    """
    from tinygptv_core.model import TinyGPTV
    from tinygptv_core.prepack import prepack
    from tinygptv_core.weights import load_backbones

    places = dict(sorted(_places(data).items()))
    if not places:
        raise ConfigError(f"there is no picture in {', '.join(data)}, so that there are no vision tokens to keep")
    parts = load_backbones(backbones, dtype_of(settings.precision))
    model = TinyGPTV.from_backbones(parts, None, seed=0).to(compute.device).eval()
    prepack(model)
    order = list(places.values())
    chunks = [order[start : start + PICTURES_AT_ONCE] for start in range(0, len(order), PICTURES_AT_ONCE)]

    def encode_chunk(chunk: list[SamplePosition]) -> Tensor:
        return encode_pictures(model, [_picture(data, place) for place in chunk], settings).float().cpu()

    pool = ThreadPoolExecutor(compute.threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        _write_queries(folder / "queries.npy", pool.map(encode_chunk, chunks), len(order), settings, progress)
    finally:
        pool.shutdown(cancel_futures=True)
    digests = np.frombuffer(b"".join(places), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    np.save(folder / "pictures.npy", digests)
    (folder / "datasets.json").write_text(json.dumps(sorted(data)) + "\n")


def _write_queries(
    path: Path, seen: Iterator[Tensor], total: int, settings: EncodingSettings, progress: Progress
) -> None:
    """Write chunks of queries_BQE one after the other, `total` pictures in all."""
    dtype = np.float32 if settings.precision == "float32" else np.float16
    first = next(seen)
    queries, done = open_memmap(path, mode="w+", dtype=dtype, shape=(total, *first.shape[1:])), 0
    for chunk_BQE in chain([first], seen):
        queries[done : done + len(chunk_BQE)] = chunk_BQE.numpy()
        done += len(chunk_BQE)
        progress(done, total, "pictures seen")


def _places(data: Mapping[str, ShardSet]) -> dict[bytes, SamplePosition]:
    """SHA-256 of each distinct picture -> where it is met first."""
    found: dict[bytes, SamplePosition] = {}
    for name in sorted(data):
        for position in range(len(data[name])):
            picture = data[name][position].picture
            if picture is not None:
                found.setdefault(hashlib.sha256(picture).digest(), (name, position))
    return found


def _picture(data: Mapping[str, ShardSet], place: SamplePosition) -> bytes:
    name, position = place
    picture = data[name][position].picture
    assert picture is not None  # `_places` found one there
    return picture
