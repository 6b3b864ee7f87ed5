"""The full-size model on one GPU: samples per second, used operations and peak memory of each stage, as ratios.

python -m benchmarks.gpu
python -m benchmarks.gpu --stage 2 --way fast --micro-batch 16 --micro-batch 32 --seconds 20
python -m benchmarks.gpu --toy

It needs the core, a compiler and no weights: they are random, and made on the GPU. Each stage is stepped the
reference's way (`conventional.py`) and ours: plain; packed; fast, which is packed and compiled; and fast with kept
vision tokens. All have the same model, batches, precision and optimizer. Pictures and our texts lie ready in memory, as
loaders have them; the reference tokenizes within its step. Compiling takes a minute or two a stage, before anything is
measured; at toy size nothing is compiled.

MFU is what the steps need (`tinygptv_core/training/flops.py`) of what the GPU could do in that time. Needed is what
the result depends on: no padding, nothing computed twice, no gradient of a frozen weight; with kept tokens no tower.
Memory is torch's own count of what was held, so without the driver's part.

Without a GPU, or with --toy, everything is small, so that the script can be seen to run; its numbers then say nothing.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks.conventional import Conventional
from benchmarks.gpu_work import FULL, TOY, Precision, Scale, Work, new_model, new_tokenizer, work_of_stage
from tinygptv_core.engine import BETAS, EPSILON
from tinygptv_core.plain import ConfigError
from tinygptv_core.precision import dtype_of
from tinygptv_core.run import RunOptions
from tinygptv_core.train import be_deterministic
from tinygptv_core.trainable import parameter_groups
from tinygptv_core.training.compiling import compile_layers, require_compiler
from tinygptv_core.training.ddp import DDPEngine
from tinygptv_core.training.flops import peak_flops

RATE = 1e-6
"""Small, for random weights have nothing to learn."""

WARM_UP_STEPS = 2
CONVENTIONAL = "conventional"
GOAL_MFU, GOAL_GB = 0.40, 24

Step = Callable[[int], Tensor | float]
"""Steps with the batch of this index; the loss, for which ours does not wait."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured of a stage.

    Attributes:
        micro_batches: samples of a step (None as each data set of the stage has it) -> for each row of ours the most of
            one forward pass; None for all at once.
        distinct: batches that are stepped through.
    """

    micro_batches: Mapping[int | None, tuple[int | None, ...]]
    distinct: int


PLANS: Mapping[int, Plan] = {
    1: Plan(micro_batches={64: (None,)}, distinct=4),
    2: Plan(micro_batches={64: (None,)}, distinct=4),
    3: Plan(micro_batches={6: (None,), 64: (16,)}, distinct=4),
    4: Plan(micro_batches={None: (None,)}, distinct=32),
}


@dataclass(frozen=True, kw_only=True)
class How:
    """Our way of stepping: the options of `RunOptions` that bear on it, and whether vision tokens are kept."""

    micro_batch: int | None = None
    packed: bool = False
    compiled: bool = False
    gradient_checkpointing: bool = False
    kept: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        parts = (
            "ours",
            f"micro-batch {self.micro_batch}" if self.micro_batch else "",
            "packed" if self.packed else "",
            "compiled" if self.compiled else "",
            "checkpointing" if self.gradient_checkpointing else "",
            "kept vision tokens" if self.kept else "",
        )
        return ", ".join(part for part in parts if part)


OURS: Mapping[str, How] = {
    "plain": How(),
    "packed": How(packed=True),
    "fast": How(packed=True, compiled=True),
    "kept": How(packed=True, compiled=True, kept=True),
}
"""What --way calls them."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a row has to say; the peak in bytes, of a GPU."""

    samples_per_second: float
    flops_per_second: float
    peak_bytes: int | None
    first_loss: float


def our_step(work: Work, how: How, device: torch.device) -> Step:
    """`DDPEngine.step` on one process, under the settings of `train`."""
    be_deterministic()
    model = new_model(work, device)
    if how.compiled:
        compile_layers(model, device.type)
    if how.gradient_checkpointing:
        model.llm.recompute_layers()
    options = RunOptions(
        processes=1,
        threads=1,
        device="cuda" if device.type == "cuda" else "cpu",
        loader_workers=0,
        micro_batch=how.micro_batch,
        log_every_steps=1,
        save_every_steps=1,
        packed=how.packed,
    )
    engine = DDPEngine(model, work.stage, options, rank=0, world_size=1)
    batches = work.batches(kept=how.kept)
    return lambda index: engine.step(batches[index], step=index, rate=RATE, dataset="synthetic").loss


def conventional_step(work: Work, device: torch.device) -> Step:
    """The reference's: autocast, a loss scaler, torch's AdamW; the whole batch at once."""
    torch.use_deterministic_algorithms(False)
    model = new_model(work, device).train()
    way, dtype = Conventional(model, new_tokenizer(), work.stage), dtype_of(work.stage.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    optimizer = AdamW(parameter_groups(model, work.stage.weight_decay), lr=RATE, betas=BETAS, eps=EPSILON)
    pixels = [work.pixels(index) for index in range(len(work.spoken))]

    def step(index: int) -> float:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype):
            loss = way.loss(pixels[index].to(device), work.spoken[index])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def measured(make: Callable[[], Step], work: Work, *, kept: bool, device: torch.device, seconds: float) -> Found:
    """Whole passes through the batches, for at least `seconds`, after a few steps to warm up.

    Raises:
        torch.OutOfMemoryError: the GPU has not enough.
    """
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    step, indices = make(), range(len(work.spoken))
    losses = [float(step(index)) for index in indices[:WARM_UP_STEPS]]
    _wait(device)
    began, passes, taken = time.perf_counter(), 0, 0.0
    while taken < seconds:
        for index in indices:
            step(index)
        _wait(device)
        passes, taken = passes + 1, time.perf_counter() - began
    return Found(
        samples_per_second=passes * work.samples / taken,
        flops_per_second=passes * work.flops(kept=kept) / taken,
        peak_bytes=torch.cuda.max_memory_allocated() if is_cuda else None,
        first_loss=losses[0],
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the command line says, and the device."""

    device: torch.device
    scale: Scale
    precision: Precision
    ways: tuple[str, ...]
    micro_batches: tuple[int, ...]
    gradient_checkpointing: bool
    seconds: float


def stage_rows(number: int, given: Given) -> Iterator[str]:
    """The rows of a stage, each measured when it is asked for."""
    for batch, micro_batches in PLANS[number].micro_batches.items():
        work = work_of_stage(number, batch, PLANS[number].distinct, given.scale, given.precision)
        usual = None
        if CONVENTIONAL in given.ways:
            usual = _tried(partial(conventional_step, work, given.device), work, kept=False, given=given)
            yield _row(number, work, CONVENTIONAL, usual, usual, given)
        for how in _hows(micro_batches, given):
            found = _tried(
                lambda how=how, work=work: our_step(work, how, given.device), work, kept=how.kept, given=given
            )
            yield _row(number, work, how.name, found, usual, given)


def _hows(planned: Sequence[int | None], given: Given) -> Iterator[How]:
    for micro_batch in given.micro_batches or planned:
        of_scale = None if micro_batch is None else max(micro_batch // given.scale.batch_share, 1)
        again = given.gradient_checkpointing
        wanted = [replace(way, compiled=way.compiled and given.scale is FULL) for way in _ours(given)]
        for way in dict.fromkeys(wanted):
            yield replace(way, micro_batch=of_scale, gradient_checkpointing=again)


def _ours(given: Given) -> list[How]:
    return [OURS[name] for name in given.ways if name in OURS]


def _tried(make: Callable[[], Step], work: Work, *, kept: bool, given: Given) -> Found | None:
    """What was measured, or None where the memory was not enough; the memory is free again after it."""
    found = None
    torch._dynamo.reset()  # what other models were compiled to counts against a limit
    with suppress(torch.OutOfMemoryError):
        found = measured(make, work, kept=kept, device=given.device, seconds=given.seconds)
    gc.collect()
    if given.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _row(number: int, work: Work, way: str, found: Found | None, usual: Found | None, given: Given) -> str:
    largest = max(map(len, work.spoken))
    cells = [str(number), str(work.stage.image_size), str(largest), way]
    if found is None:
        return f"| {' | '.join([*cells, 'out of memory', '', '', '', ''])} |"
    ratio = f"{found.samples_per_second / usual.samples_per_second:.2f} x" if usual else ""
    memory = "" if found.peak_bytes is None else f"{found.peak_bytes / 1e9:.1f} GB"
    goal = _goal(number, largest, way) if given.scale is FULL else ""
    told = [f"{found.samples_per_second:.1f}", ratio, _mfu(found, given.device), memory, goal]
    return f"| {' | '.join(cells + told)} |"


def _mfu(found: Found, device: torch.device) -> str:
    peak = peak_flops(torch.cuda.get_device_name()) if device.type == "cuda" else None
    return f"{found.flops_per_second / 1e12:.3g} TFLOP/s" + (f", {found.flops_per_second / peak:.1%}" if peak else "")


def _goal(number: int, batch: int, way: str) -> str:
    if way == CONVENTIONAL:
        return ""
    goals = [f"{GOAL_MFU:.0%}"] if number <= 2 else []
    return ", ".join([*goals, f"{GOAL_GB} GB"] if number <= 3 and batch == 64 else goals)


HEAD = (
    "| stage | px | batch | way | samples/s | speed | needed, MFU | peak memory | goal |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)
TOY_WORDS = (
    "TOY SIZES ON THE CPU: this shows that the script runs, and says nothing of the paper's model. "
    "With a GPU it takes the real sizes."
)


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row. Returns 0, or 2 where there is no compiler and one is needed."""
    given, stages = _parsed(arguments)
    try:
        if given.scale is FULL and any(way.compiled for way in _ours(given)):
            require_compiler(given.device.type)
    except ConfigError as error:
        print(f"{error}\n  or                 --way {CONVENTIONAL} --way plain --way packed", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name() if given.device.type == "cuda" else TOY_WORDS
    print(f"{name}\ntorch {torch.__version__}, {given.precision}\n")
    print(*HEAD, sep="\n", flush=True)
    for number in stages:
        for row in stage_rows(number, given):
            print(row, flush=True)
    return 0


def _parsed(arguments: Sequence[str]) -> tuple[Given, Sequence[int]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--stage", type=int, choices=sorted(PLANS), action="append", help="all by default")
    parser.add_argument("--way", choices=[CONVENTIONAL, *OURS], action="append", help="all by default")
    parser.add_argument("--precision", choices=get_args(Precision), default="bfloat16")
    parser.add_argument("--micro-batch", type=_positive, action="append", help="of ours; by default as fits 24 GB")
    parser.add_argument("--checkpointing", action="store_true", help="ours computes layers again on the way back")
    parser.add_argument("--seconds", type=float, help="that a row is measured for, at least (6; toy 0.1)")
    parser.add_argument("--toy", action="store_true", help="small sizes on the CPU; so without a GPU in any case")
    told = parser.parse_args(arguments)
    is_toy = told.toy or not torch.cuda.is_available()
    given = Given(
        device=torch.device("cpu" if is_toy else "cuda"),
        scale=TOY if is_toy else FULL,
        precision=told.precision,
        ways=tuple(told.way or (CONVENTIONAL, *OURS)),
        micro_batches=tuple(told.micro_batch or ()),
        gradient_checkpointing=told.checkpointing,
        seconds=told.seconds if told.seconds is not None else (0.1 if is_toy else 6.0),
    )
    return given, told.stage or sorted(PLANS)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
