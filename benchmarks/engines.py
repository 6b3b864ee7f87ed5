"""How far engines, processes and micro-batches end from one process that takes the batch whole.

python -m benchmarks.engines

The preset `nano`'s backbones, adapters among what is trained, float32, without dropout; every way has the same batches
in the same order. The processes find each other by a file, and talk over loopback.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as distributed
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.shards import photo, write_shard
from benchmarks.work import WIDTHS, conversations
from tasks.zero import train
from tinygptv_core.run import RunOptions, RunSpec, read_spec, write_spec
from tinygptv_core.settings import SHIPPED
from tinygptv_core.stage import Share
from tinygptv_core.stages import NANO_STAGE2

BATCH = 16
PICTURES = 256
ONE_PROCESS = RunOptions(
    processes=1, threads=1, device="cpu", loader_workers=0, micro_batch=None, log_every_steps=1, save_every_steps=10**6
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a run is trained: by so many processes, under these options."""

    processes: int
    options: Mapping[str, Any] = field(default_factory=dict)


USUAL = "ddp, 1 process"
WAYS: Mapping[str, Way] = {
    USUAL: Way(processes=1),
    "ddp, 1 process, micro-batches of 3": Way(processes=1, options={"micro_batch": 3}),
    "ddp, 1 process, packed": Way(processes=1, options={"packed": True}),
    "ddp, 2 processes": Way(processes=2),
    "ddp, 4 processes": Way(processes=4),
    "zero1, 2 processes": Way(processes=2, options={"engine": "zero1"}),
    "zero2, 2 processes": Way(processes=2, options={"engine": "zero2"}),
    "zero3, 2 processes": Way(processes=2, options={"engine": "zero3"}),
    "zero3, 4 processes, micro-batches of 3, packed": Way(
        processes=4, options={"engine": "zero3", "micro_batch": 3, "packed": True}
    ),
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left: the loss of each step, and the final weights."""

    losses: tuple[float, ...]
    weights: Mapping[str, Tensor]


def spec_in(folder: Path, steps: int) -> RunSpec:
    """The run that all ways do."""
    side = NANO_STAGE2.image_size
    said = conversations(PICTURES, side).turns
    pictures = write_shard(folder / "data", ((photo(number, side, side), turns) for number, turns in enumerate(said)))
    schedule = replace(NANO_STAGE2.schedule, warmup_steps=steps // 4, steps=steps)
    mix = {"pictures": Share(weight=1, batch=BATCH)}
    stage = replace(NANO_STAGE2, mix=mix, lora=WIDTHS["nano"].lora, prompt_template="[INST] {} [/INST]", max_tokens=200)
    return RunSpec(
        stage=replace(stage, schedule=schedule),
        prompts={"pictures": ("{}",)},
        data={"pictures": pictures},
        backbones=SHIPPED / "nano",
        init=None,
        options=ONE_PROCESS,
        out=folder,
        work=folder,
        notes=folder,
        seen={},
    )


def together(module: str, folder: Path, world_size: int) -> None:
    """Run `python -m module FOLDER RANK WORLD_SIZE` in so many processes; they are `joined` there.

    Raises:
        RuntimeError: one of them failed; with what it wrote.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(rank), str(world_size)],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    told = [process.communicate()[1][-4000:] for process in processes]
    failed = [text for process, text in zip(processes, told, strict=True) if process.returncode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {world_size} processes failed:\n" + "\n".join(failed))


@contextmanager
def joined(folder: Path, rank: int, world_size: int) -> Iterator[None]:
    """The default group of `together`'s processes."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world_size)
    yield
    distributed.barrier()
    distributed.destroy_process_group()


def train_all(folder: Path, rank: int, world_size: int) -> None:
    """One of the processes: all runs in `folder`, one after another."""
    with joined(folder, rank, world_size):
        for path in sorted(folder.glob("*/RUN.json")):
            train(read_spec(path), rank, world_size, lambda done, total, text: None)


def trained(spec: RunSpec, ways: Mapping[str, Way], folder: Path) -> dict[str, Trained]:
    """Run `spec` in ways of equally many processes, below the new `folder`."""
    for number, way in enumerate(ways.values()):
        place = folder / str(number)
        place.mkdir(parents=True)
        options = replace(spec.options, processes=way.processes, **way.options)
        own = replace(spec, options=options, out=place / "out", work=place / "work", notes=place / "notes")
        write_spec(own, place / "RUN.json")
    together("benchmarks.engines", folder, next(iter(ways.values())).processes)
    return {name: _read(folder / str(number)) for number, name in enumerate(ways)}


def _read(place: Path) -> Trained:
    lines = (place / "notes" / "metrics.jsonl").read_text().splitlines()
    losses = tuple(json.loads(line)["loss"] for line in lines)
    return Trained(losses=losses, weights=load_file(place / "out" / "trainable.safetensors"))


def row(name: str, one: Trained, other: Trained) -> str:
    """How far `other` is from `one`: of each tensor the largest difference, also by the tensor's largest value."""
    loss = max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))
    gaps = {key: float((one.weights[key] - other.weights[key]).abs().max()) for key in one.weights}
    relative = max(gap / float(one.weights[key].abs().max()) for key, gap in gaps.items())
    return f"| {name} | {loss:.1e} | {max(gaps.values()):.1e} | {relative:.1e} |"


HEAD = ("| way | loss of a step | weight, absolute | weight, relative |", "| --- | --- | --- | --- |")


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines")
    parser.add_argument("--steps", type=int, default=20, help="of the run (20)")
    given = parser.parse_args(arguments)
    print(*HEAD, sep="\n", flush=True)
    with TemporaryDirectory() as name:
        folder, found = Path(name), {}
        spec = spec_in(folder, given.steps)
        for processes in sorted({way.processes for way in WAYS.values()}):
            ways = {name: way for name, way in WAYS.items() if way.processes == processes}
            found |= trained(spec, ways, folder / f"of-{processes}")
            print(*(row(name, found[USUAL], found[name]) for name in ways if name != USUAL), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        train_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1:]))
