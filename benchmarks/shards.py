"""Shards that a benchmark makes for itself, and the original's way of reading them."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor

from tinygptv_core.image import MEAN, STANDARD_DEVIATION
from tinygptv_core.recipe import Turn
from tinygptv_core.run import DataFolders
from tinygptv_core.shards import INDEX_COLUMNS

# Shape letters of this file: B pictures at once, H = W side in pixels.

TAR = "00000.tar"

Written = tuple[bytes, tuple[Turn, ...]]
"""A picture, encoded, and what is said about it."""

Spoken = tuple[tuple[Turn, ...], ...]
"""What is said about each picture of a batch."""


def write_shard(folder: Path, samples: Iterable[Written]) -> DataFolders:
    """One tar of pictures with texts, in their order, and its index."""
    (folder / "shards").mkdir(parents=True)
    (folder / "index").mkdir()
    path, keys = folder / "shards" / TAR, []
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        for number, (picture, turns) in enumerate(samples):
            keys.append(f"{number:09d}")
            said = [[turn.role, turn.text] for turn in turns]
            told = {"key": keys[-1], "turns": said, "split": None, "group": None, "url": None}
            tar.write({"__key__": keys[-1], "jpg": picture, "json": json.dumps(told).encode()})
    with tarfile.open(path) as tar:
        places = {member.name: (member.offset_data, member.size) for member in tar}
    records = [(number, 0, *places[f"{key}.jpg"], *places[f"{key}.json"]) for number, key in enumerate(keys)]
    columns = np.dtype([(name, np.int64) for name in INDEX_COLUMNS])
    np.save(folder / "index" / "samples.npy", np.array(records, dtype=columns))
    (folder / "index" / "shards.json").write_text(json.dumps([path.name]))
    return DataFolders(shards=folder / "shards", index=folder / "index")


def photo(number: int, width: int, height: int) -> bytes:
    """A JPEG of quality 95: soft shapes under a little noise, about as large as a photograph of so many pixels."""
    random = np.random.default_rng(number)
    shapes = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    soft_HW3 = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy_HW3 = soft_HW3 + random.integers(-4, 5, soft_HW3.shape, dtype=np.int16)
    data = io.BytesIO()
    Image.fromarray(noisy_HW3.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=95)
    return data.getvalue()


def conventional_batches(folders: DataFolders, size: int, at_once: int) -> Iterator[tuple[Tensor, Spoken]]:
    """(images_B3HW, what is said), as the original's pipeline makes them, one sample after another.

    webdataset's `pilrgb`, a bicubic resize, and torchvision's ToTensor and Normalize.
    """
    processed = _processing(size)
    samples: Any = webdataset.WebDataset(str(Path(folders.shards) / TAR), shardshuffle=False, empty_check=False)
    pairs = iter(samples.decode("pilrgb").to_tuple("jpg", "json").map_tuple(processed, lambda told: told))
    while batch := list(islice(pairs, at_once)):
        images_B3HW = torch.stack([picture_3HW for picture_3HW, _ in batch])
        yield images_B3HW, tuple(tuple(Turn(role, text) for role, text in told["turns"]) for _, told in batch)


def _processing(size: int) -> Callable[[Image.Image], Tensor]:
    mean, deviation = torch.from_numpy(MEAN)[:, None, None], torch.from_numpy(STANDARD_DEVIATION)[:, None, None]

    def processed(picture: Image.Image) -> Tensor:
        """What torchvision does in Resize, ToTensor and Normalize."""
        resized = picture.resize((size, size), Image.Resampling.BICUBIC)
        numbers_3HW = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return numbers_3HW.clone().sub_(mean).div_(deviation)

    return processed
