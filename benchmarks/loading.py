"""Our loader against the original's pipeline on one core: pictures per second, as ratios.

python -m benchmarks.loading
python -m benchmarks.loading --case "224 px shards" --rounds 9

Every way reads the same tars, texts included, and must give the same pictures to 1e-6, or the run ends with exit code
1. (*decoding alone* has read them before: it shows how much of a way that is.) The original's way is webdataset's
`pilrgb`, a bicubic resize, torchvision's ToTensor and Normalize, one sample after another, and a stack. It leaves
tokenizing to the model; so do ours, but for the one that says otherwise.

Times are processor seconds of one thread, with malloc as it is by default: in a process that reads ahead a batch is new
memory each time, and that its floats are four times its bytes is part of what they cost.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import seconds_of
from benchmarks.model import CONVENTIONAL, DifferenceError
from benchmarks.shards import conventional_batches, photo, write_shard
from tinygptv_core.image import squash_all, squashed
from tinygptv_core.prompt import Tokenizer, collate, encode_training
from tinygptv_core.recipe import Turn
from tinygptv_core.run import DataFolders
from tinygptv_core.settings import SHIPPED
from tinygptv_core.shards import Sample, ShardSet
from tinygptv_core.stages import NANO_STAGE1
from tinygptv_core.vision import normalised
from tinygptv_core.weights import read_tokenizer

# Shape letters of this file: B pictures at once, H = W side in pixels.

TOLERANCE = 1e-6
"""The most that a number of a picture may differ, absolute."""

AT_ONCE = 64
CAPTION = "a cat that sits on a red car in front of a white house with two windows"


@dataclass(frozen=True, kw_only=True)
class Case:
    """The pictures in the shards, JPEG of quality 95 as img2dataset writes them, and the square that is wanted."""

    width: int
    height: int
    size: int


CASES: Mapping[str, Case] = {
    "224 px shards": Case(width=224, height=224, size=224),
    "640 x 480 to 448 px": Case(width=640, height=480, size=448),
}

GOALS = {"224 px shards, normalised here": "3.8 x", "224 px shards, bytes": "7 x"}
"""What is aimed at, on one core."""

Batches = Callable[[], Iterator[Tensor]]
"""One pass over the shards: images_B3HW, as bytes or normalised."""


def written(folder: Path, case: Case, count: int) -> DataFolders:
    """A shard of so many of the case's pictures, and its index."""
    caption = (Turn("assistant", CAPTION),)
    return write_shard(folder, ((photo(number, case.width, case.height), caption) for number in range(count)))


def conventional(folders: DataFolders, size: int) -> Batches:
    """The original's pipeline."""
    return lambda: (images_B3HW for images_B3HW, _ in conventional_batches(folders, size, AT_ONCE))


def ours(folders: DataFolders, size: int, finish: Callable[[list[Sample], Tensor], Tensor]) -> Batches:
    """Our reading and decoding, each batch of bytes given to `finish`."""
    data = ShardSet(folders)

    def one_pass() -> Iterator[Tensor]:
        for start in range(0, len(data), AT_ONCE):
            samples = data.read(range(start, min(start + AT_ONCE, len(data))))
            pictures = [sample.picture for sample in samples if sample.picture is not None]
            yield finish(samples, torch.from_numpy(squashed(pictures, size)))

    return one_pass


def decoding(folders: DataFolders, size: int) -> Batches:
    """What is left of ours where pictures are read before, and decoded into the same memory again and again."""
    data = ShardSet(folders)
    pictures = [sample.picture for sample in data.read(range(len(data))) if sample.picture is not None]
    bytes_BHW3 = np.empty((AT_ONCE, size, size, 3), dtype=np.uint8)

    def one_pass() -> Iterator[Tensor]:
        for start in range(0, len(pictures), AT_ONCE):
            some = pictures[start : start + AT_ONCE]
            yield torch.from_numpy(squash_all(some, bytes_BHW3[: len(some)]))

    return one_pass


def ways_of(folders: DataFolders, size: int) -> dict[str, Batches]:
    """The conventional way and ours, by name."""
    tokenizer = read_tokenizer(SHIPPED / "nano" / "tokenizer")
    return {
        CONVENTIONAL: conventional(folders, size),
        "normalised here": ours(folders, size, lambda samples, bytes_B3HW: normalised(bytes_B3HW)),
        "bytes": ours(folders, size, lambda samples, bytes_B3HW: bytes_B3HW),
        "bytes, decoding alone": decoding(folders, size),
        "bytes, texts tokenized": ours(folders, size, lambda *read: _whole_batch(tokenizer, *read)),
    }


def _whole_batch(tokenizer: Tokenizer, samples: list[Sample], bytes_B3HW: Tensor) -> Tensor:
    encoded = [encode_training(tokenizer, one.turns, prompt="{}", stage=NANO_STAGE1, has_image=True) for one in samples]
    keys = [sample.key for sample in samples]
    batch = collate(encoded, bytes_B3HW, keys=keys, pad_id=tokenizer.pad_token_id, side="right")
    assert batch.images_B3HW is not None
    return batch.images_B3HW


def differences(ways: Mapping[str, Batches]) -> dict[str, float]:
    """The largest difference of each way's pictures, normalised, from the conventional one's.

    Raises:
        DifferenceError: it is more than `TOLERANCE`, or the pictures are not equally many.
    """
    found = dict.fromkeys(ways, 0.0)
    for name, way in ways.items():
        for wanted, given in zip(ways[CONVENTIONAL](), way(), strict=True):
            numbers = normalised(given) if given.dtype == torch.uint8 else given
            found[name] = max(found[name], float((numbers - wanted).abs().max()))
        if not found[name] <= TOLERANCE:
            raise DifferenceError(f"{name} differs from the conventional way by {found[name]:.1e}")
    return found


def report(name: str, rounds: int, count: int) -> list[str]:
    """A row of the table for every way of a case, compared and then timed in turns."""
    case = CASES[name]
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        ways = ways_of(written(Path(folder), case, count), case.size)
        gaps = differences(ways)
        seconds = seconds_of({way: partial(_gone_through, run) for way, run in ways.items()}, rounds)
    usual = seconds[CONVENTIONAL]
    return [
        f"| {name} | {way} | {count / seconds[way]:.0f} | {usual / seconds[way]:.2f} x | {gaps[way]:.0e} | "
        f"{GOALS.get(f'{name}, {way}', '')} |"
        for way in ways
    ]


def _gone_through(way: Batches) -> None:
    for _ in way():
        pass


HEAD = ("| pictures | way | pictures/s | speed | differs by | goal |", "| --- | --- | --- | --- | --- | --- |")


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row. Returns 0, or 1 where two ways differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="the pictures; all of them by default")
    parser.add_argument("--rounds", type=int, default=7, help="in which the ways take turns (7)")
    parser.add_argument("--count", type=int, default=256, help="of pictures (256)")
    given = parser.parse_args(arguments)
    print(*HEAD, sep="\n", flush=True)
    try:
        for case in given.case or CASES:
            print(*report(case, given.rounds, given.count), sep="\n", flush=True)
    except DifferenceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
