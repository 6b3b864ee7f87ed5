"""Vision tokens that are kept: what the frozen tower and Q-Former make of a picture, computed once, read many times.

A folder of them holds `datasets.json` (whose pictures they are), `pictures.npy` (uint8, P x 32: the SHA-256 of each
distinct picture's file, ascending) and `queries.npy` (P x Q x E: float32, or float16 for a stage in 16 bits).
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from tinygptv_core.image import preprocess
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.shards import ShardSet
from tinygptv_core.weights import load_backbones

# Shape letters of this file: P distinct pictures, Q image queries, E width of the Q-Former, H = W side in pixels.

# Fixed, and not an option: the last bits of a sum depend on the shape of a batch.
PICTURES_AT_ONCE = 64

Precision = Literal["float32", "bfloat16", "float16"]
DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pictures are looked at: the side of the square that the tower sees, in pixels, and its precision."""

    image_size: int
    precision: Precision


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
        """queries_PQE of these pictures (encoded files), as `encode` would give them.

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


def encode(model: TinyGPTV, pictures: Sequence[bytes], look: Look) -> Tensor:
    """queries_PQE of the pictures (encoded files), on the model's device.

    Raises:
        ValueError: one of them is no picture which can be read.
    """
    device, dtype = next(model.parameters()).device, getattr(torch, look.precision)
    seen: list[Tensor] = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
        for start in range(0, len(pictures), PICTURES_AT_ONCE):
            pixels = [preprocess(data, look.image_size) for data in pictures[start : start + PICTURES_AT_ONCE]]
            seen.append(model.encode_images(torch.from_numpy(np.stack(pixels)).to(device)))
    return torch.cat(seen)


def write_features(
    backbones: Path,
    data: Mapping[str, ShardSet],
    look: Look,
    device: str,
    folder: Path,
    progress: Callable[[int, int, str], None],
) -> None:
    """Write the features of every distinct picture of `data` to `folder`, in the order of their SHA-256.

    Raises:
        ConfigError: there is no picture in any of the data sets.
        ValueError: a picture cannot be read.
    """
    places = dict(sorted(_places(data).items()))
    if not places:
        raise ConfigError(f"there is no picture in {', '.join(data)}, so that there are no vision tokens to keep")
    parts = load_backbones(backbones, getattr(torch, look.precision))
    model = TinyGPTV.from_backbones(parts, None, seed=0).to(device).eval()
    order, queries = list(places.values()), None
    for start in range(0, len(order), PICTURES_AT_ONCE):
        chunk = order[start : start + PICTURES_AT_ONCE]
        seen = encode(model, [_picture(data, place) for place in chunk], look).cpu()
        if queries is None:
            dtype = np.float32 if look.precision == "float32" else np.float16
            shape = (len(order), *seen.shape[1:])
            queries = open_memmap(folder / "queries.npy", mode="w+", dtype=dtype, shape=shape)
        queries[start : start + len(chunk)] = seen.float().numpy()
        progress(start + len(chunk), len(order), "pictures seen")
    digests = np.frombuffer(b"".join(places), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    np.save(folder / "pictures.npy", digests)
    (folder / "datasets.json").write_text(json.dumps(sorted(data)) + "\n")


Place = tuple[str, int]
"""(data set, position in its index)."""


def _places(data: Mapping[str, ShardSet]) -> dict[bytes, Place]:
    """SHA-256 of each distinct picture -> where it is met first."""
    found: dict[bytes, Place] = {}
    for name in sorted(data):
        for position in range(len(data[name])):
            picture = data[name][position].picture
            if picture is not None:
                found.setdefault(hashlib.sha256(picture).digest(), (name, position))
    return found


def _picture(data: Mapping[str, ShardSet], place: Place) -> bytes:
    name, position = place
    picture = data[name][position].picture
    assert picture is not None  # `_places` found one there
    return picture
