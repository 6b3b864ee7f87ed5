"""Whole training loops over shards on disk, ours and the reference's, which see the same samples in the same order."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch.optim import AdamW

from benchmarks.conventional import Conventional
from benchmarks.shards import Spoken, Written, conventional_batches, photo, write_shard
from benchmarks.work import CAPTIONS, CONVERSATIONS, Width, spoken_captions, spoken_conversations
from tinygptv_core.compute import Compute
from tinygptv_core.draws import Order
from tinygptv_core.engine import BETAS, EPSILON
from tinygptv_core.features import EncodingSettings, write_features
from tinygptv_core.run import DataFolders, RunOptions, RunSpec
from tinygptv_core.schedule import rate
from tinygptv_core.shards import ShardSet
from tinygptv_core.stage import Schedule, Share, Stage
from tinygptv_core.train import starting_model, train
from tinygptv_core.trainable import parameter_groups, trainable_parameters
from tinygptv_core.weights import save_backbones

DATASET = "scenes"
WARM_UP_STEPS = 1
NEVER = 1_000_000_000
"""Steps between states of a run that saves none."""

OPTIONS = RunOptions(
    processes=1, threads=1, device="cpu", loader_workers=0, micro_batch=None, log_every_steps=1, save_every_steps=NEVER
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a loop trains on.

    Attributes:
        spoken: what is said about so many pictures.
        photo: width and height of the pictures in the shards, in pixels; None for the side that the tower sees.
        packed: ours packs, as a user would where lengths differ.
    """

    stage: Stage
    spoken: Callable[[int], Spoken]
    photo: tuple[int, int] | None
    packed: bool


STAGE2 = Work(stage=CAPTIONS, spoken=spoken_captions, photo=None, packed=False)
STAGE4 = Work(stage=CONVERSATIONS, spoken=spoken_conversations, photo=(640, 480), packed=True)


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a loop is, and of how many samples a step."""

    steps: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Course:
    """A loop laid out on disk.

    Attributes:
        spec: ours; it draws its samples from `spec.data` in an order of its own.
        in_order: the same samples in the order in which ours draws them, to be read from front to back.
    """

    spec: RunSpec
    in_order: DataFolders


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run gave: the loss of every step in nats, and when it was done, in seconds of some clock."""

    losses: tuple[float, ...]
    done_at: tuple[float, ...]

    @property
    def step_seconds(self) -> float:
        """The mean of all steps but those to warm up."""
        counted = self.done_at[WARM_UP_STEPS - 1 :]
        return (counted[-1] - counted[0]) / (len(counted) - 1)

    @property
    def middle_step_seconds(self) -> float:
        """The median of the same steps."""
        counted = self.done_at[WARM_UP_STEPS - 1 :]
        return median(later - earlier for earlier, later in pairwise(counted))


def course(folder: Path, width: Width, work: Work, length: Length) -> Course:
    """Write backbones and shards to `folder`: as many samples as are drawn, and one that is held out."""
    stage = replace(
        work.stage,
        name="loop",
        mix={DATASET: Share(weight=1, batch=length.batch)},
        image_size=width.side,
        lora=width.lora,
        schedule=Schedule(start=1e-6, peak=1e-4, end=1e-5, warmup_steps=1, steps=length.steps),
        clip_norm=None,
        held_out_samples=1,
    )
    samples = _samples(length.steps * length.batch + 1, work.photo or (width.side, width.side), work.spoken)
    backbones = folder / "backbones"
    save_backbones(width.backbones(), backbones, torch.float32, note={})
    spec = RunSpec(
        stage=stage,
        prompts={DATASET: ("{}",)},
        data={DATASET: write_shard(folder / "drawn", samples)},
        backbones=backbones,
        init=None,
        options=replace(OPTIONS, packed=work.packed),
        seen={},
        **_outputs(folder / "run"),
    )
    order = Order(stage, {DATASET: ShardSet(spec.data[DATASET])}, {})
    drawn = [position for step in range(length.steps) for position in order.batch_at(step).positions]
    return Course(spec=spec, in_order=write_shard(folder / "in-order", [samples[position] for position in drawn]))


def _samples(count: int, size: tuple[int, int], spoken: Callable[[int], Spoken]) -> list[Written]:
    return [(photo(number, *size), turns) for number, turns in enumerate(spoken(count))]


def _outputs(folder: Path) -> Mapping[str, Path]:
    return {name: folder / name for name in ("out", "work", "notes")}


def anew(spec: RunSpec) -> RunSpec:
    """The same run, of which nothing is there yet."""
    shutil.rmtree(spec.out.parent, ignore_errors=True)
    return spec


def with_kept_tokens(spec: RunSpec) -> RunSpec:
    """The same run with kept vision tokens, which are computed here."""
    folder = spec.backbones.parent / "features"
    folder.mkdir()
    look = EncodingSettings(image_size=spec.stage.image_size, precision=spec.stage.precision)
    data = {name: ShardSet(folders) for name, folders in spec.data.items()}
    write_features(spec.backbones, data, look, Compute(device="cpu", threads=1), folder, lambda *_: None)
    return replace(spec, features=folder)


def ours(spec: RunSpec, clock: Callable[[], float]) -> Ran:
    """Our loop, from its first step, in this process."""
    done_at: list[float] = []
    train(anew(spec), 0, 1, lambda done, total, text: done_at.append(clock()))
    return Ran(losses=told(spec.notes, "loss"), done_at=tuple(done_at))


def told(notes: Path, name: str) -> tuple[float, ...]:
    """What `metrics.jsonl` says by this name of every step."""
    return tuple(json.loads(line)[name] for line in (notes / "metrics.jsonl").read_text().splitlines())


def conventional(given: Course, clock: Callable[[], float]) -> Ran:
    """The reference's loop on the same samples from the same weights.

    Its loader decodes and normalises one picture after another, its model tokenizes, its loss has logits at every
    position, and its checkpoint (weights, optimizer, step) is pickled while training waits.
    """
    spec = anew(given.spec)
    torch.set_num_threads(spec.options.threads)
    torch.use_deterministic_algorithms(False)
    model, tokenizer = starting_model(spec)
    way, schedule = Conventional(model.train(), tokenizer, spec.stage), spec.stage.schedule
    optimizer = AdamW(parameter_groups(model, spec.stage.weight_decay), lr=0.0, betas=BETAS, eps=EPSILON)
    losses: list[float] = []
    done_at: list[float] = []
    batch = spec.stage.mix[DATASET].batch
    for step, (images_B3HW, turns) in enumerate(conventional_batches(given.in_order, spec.stage.image_size, batch)):
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, step)
        optimizer.zero_grad()
        loss = way.loss(images_B3HW, turns)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % spec.options.save_every_steps == 0:
            spec.work.mkdir(parents=True, exist_ok=True)
            held = {"model": trainable_parameters(model), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(held, spec.work / f"checkpoint_{step}.pth")
        done_at.append(clock())
    return Ran(losses=tuple(losses), done_at=tuple(done_at))


def farthest(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest difference of two runs' losses; infinite where they are not equally many."""
    if len(found) != len(wanted):
        return float("inf")
    return max(abs(one - other) for one, other in zip(found, wanted, strict=True))


def process_seconds() -> float:
    """Of the processor, all threads of this process together."""
    return time.process_time()
