"""What training a stage would take, before it begins: from the last run of such a stage, or by arithmetic."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.build import Store
from tasks.request import TrainingEstimate
from tasks.train import TRAIN
from tinygptv_core.artifact import Artifact
from tinygptv_core.parameters import parameters, trained_parameters
from tinygptv_core.plain import leaves, plain
from tinygptv_core.run import RunOptions
from tinygptv_core.sizes import Sizes
from tinygptv_core.stages import Stage

FLOAT32_BYTES = 4
STATE_VALUES = 3
"""Of each trained parameter a state has its value and two moments; memory has its gradient, too."""
NO_TIME = "no time is known: --probe measures it"


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """An earlier build of a stage, as the store's notes have it."""

    stage: dict[str, Any]
    options: dict[str, Any]
    summary: dict[str, Any]
    time: float

    @property
    def seconds_per_sample(self) -> float:
        """Of training, all processes together."""
        return 1 / self.summary["samples_per_second"]


def estimate_training(
    stage: Stage, sizes: Sizes, backbones: Artifact | None, options: RunOptions, store: Store
) -> TrainingEstimate:
    """By the last run on these backbones of a stage of this name that is most like it; else by arithmetic.

    Args:
        backbones: None where they are not there yet.
    """
    run = nearest_run(stage, backbones, options, store) if backbones else None
    if run is None:
        return by_arithmetic(stage, sizes, options, NO_TIME)
    processes = run.options["processes"]
    return TrainingEstimate(
        seconds=samples_of(stage) * run.seconds_per_sample,
        memory_bytes=run.summary["peak_memory_bytes"],
        disk_bytes=disk_bytes(stage, sizes, options),
        by="last run",
        note="" if processes == options.processes else f"that one had {processes} processes",
    )


def by_arithmetic(stage: Stage, sizes: Sizes, options: RunOptions, note: str) -> TrainingEstimate:
    """What is known without anything measured: weights, gradients and moments, but not what a step keeps."""
    counts, trained = parameters(sizes), trained_parameters(sizes, stage.lora)
    large = FLOAT32_BYTES if stage.precision == "float32" else FLOAT32_BYTES // 2
    weights = large * (counts.vision + counts.llm) + FLOAT32_BYTES * counts.qformer
    return TrainingEstimate(
        seconds=None,
        memory_bytes=weights + (STATE_VALUES + 1) * FLOAT32_BYTES * trained,
        disk_bytes=disk_bytes(stage, sizes, options),
        by="arithmetic",
        note=note,
    )


def disk_bytes(stage: Stage, sizes: Sizes, options: RunOptions) -> int:
    """Of the checkpoint and, while it trains, of the states that are kept and the one that is being written."""
    return (1 + STATE_VALUES * (options.keep_states + 1)) * FLOAT32_BYTES * trained_parameters(sizes, stage.lora)


def samples_of(stage: Stage) -> float:
    """How many samples the stage draws, on average over the chances of its mix."""
    shares = stage.mix.values()
    batch = sum(share.weight * share.batch for share in shares) / sum(share.weight for share in shares)
    return stage.schedule.steps * batch


def nearest_run(stage: Stage, backbones: Artifact, options: RunOptions, store: Store) -> LastRun | None:
    """The earlier build that is most like what is wanted, of the newest; None where none tells anything about it.

    Another device, size of pictures or language model says nothing.
    """
    asked = leaves(plain(stage, identity=True))
    found = [
        run
        for run in _runs(stage.name, backbones, store)
        if run.options["device"] == options.device and run.stage["image_size"] == stage.image_size
    ]

    def distance(run: LastRun) -> tuple[bool, int, float]:
        had = leaves(run.stage)
        unlike = sum(had.get(name) != asked.get(name) for name in {**had, **asked})
        return run.options["processes"] != options.processes, unlike, -run.time

    return min(found, key=distance, default=None)


def _runs(name: str, backbones: Artifact, store: Store) -> list[LastRun]:
    found: list[LastRun] = []
    for path in sorted((store.root / "keys" / TRAIN.name).glob("*.json")):
        record, notes = json.loads(path.read_text()), store.notes(path.stem)
        if record["name"] != f"{name}/train" or record["inputs"].get("backbones") != backbones.digest:
            continue
        summary, run = _json(notes / "summary.json"), _json(notes / "RUN.json")
        if summary and run:
            found.append(
                LastRun(
                    stage=record["config"]["stage"],
                    options=run["options"],
                    summary=summary,
                    time=record["noted"]["time"],
                )
            )
    return found


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None
