"""Shards written by hand, and pictures that a test can tell apart."""

import io
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.fetch import ShardWriter
from tasks.fetching.outcomes import Outcome
from tasks.request import StepFolders
from tasks.tables import TableRow
from tasks.tars import Sharing

ALONE = Sharing(processes=1, least_bytes=0, ray=None)


def step_folders(folder: Path) -> StepFolders:
    made = StepFolders(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    for path in (made.out, made.scratch, made.notes):
        path.mkdir(parents=True)
    return made


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A picture as photographs are: random colours in patches, the finer ones fainter."""
    drawn, total = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for patches, strength in ((3, 60), (6, 40), (12, 30), (24, 15)):
        small = drawn.integers(0, 256, (patches, patches, 3), dtype=np.uint8)
        large = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), dtype=float)
        total += strength * (large / 255 - 0.5)
    return Image.fromarray((128 + total).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, form, quality=quality)
    return file.getvalue()


def write_shards(folder: Path, pictures: list[bytes | None], *, per_tar: int = 2, captions: bool = False) -> Path:
    """Shards of these pictures (None: text alone) with keys in order; with `captions`, "caption 0" ... is said.

    The split of the even ones is "asked", that of the odd ones "other".
    """
    folder.mkdir(parents=True)
    with ShardWriter(folder, per_tar) as writer:
        for number, data in enumerate(pictures):
            turns = json.dumps([["assistant", f"caption {number}"]] if captions else [])
            split = ("asked", "other")[number % 2]
            row = TableRow(key=f"{number:09d}", url=None, file=None, turns=turns, split=split, group=None)
            width, height = _size(data)
            digest = sha256(data).hexdigest() if data else None
            outcome = Outcome(fate="ok", detail="", sha256=digest, width=width, height=height)
            writer.write(row, outcome, ("jpg", data) if data else None)
    return folder


def _size(data: bytes | None) -> tuple[int, int] | tuple[None, None]:
    return Image.open(io.BytesIO(data)).size if data else (None, None)
