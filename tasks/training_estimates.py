"""What training a stage would take, before it begins: from the last run of such a stage, or by arithmetic."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.build import Store
from tasks.request import TrainingEstimate, changed_names
from tasks.storing.records import Records
from tasks.train import TRAIN
from tasks.training.told import spec_in, summary_in
from tinygptv_core.artifact import Artifact
from tinygptv_core.parameters import parameters, trained_parameters
from tinygptv_core.plain import leaves, plain
from tinygptv_core.run import RunOptions
from tinygptv_core.sizes import ModelSizes
from tinygptv_core.stage import Stage

FLOAT32_BYTES = 4
STATE_VALUES = 3
"""Of each trained parameter a state has its value and two moments."""
NO_TIME = "no time is known: --probe measures it"
FELT_IN_STAGE = ("mix", "max_tokens", "precision", "lora")
"""What of a stage bears on the time of a sample and on memory, apart from the size of pictures."""
NOT_FELT = ("device", "log_every_steps", "save_every_steps", "save_every_seconds", "keep_states", "stop_seconds")
"""Options that do so hardly at all, and the device, without which runs are not compared."""
KEPT_TOKENS = "kept vision tokens"


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """An earlier build of a stage, as the store's notes have it.

    Attributes:
        aided: it had kept vision tokens.
    """

    stage: dict[str, Any]
    options: dict[str, Any]
    aided: bool
    summary: dict[str, Any]
    time: float

    @property
    def seconds_per_sample(self) -> float:
        """Of training, all processes together."""
        return 1 / self.summary["samples_per_second"]

    @property
    def conditions(self) -> dict[str, Any]:
        """`conditions` of it."""
        return conditions(self.stage, self.options, self.aided)


def estimate_training(
    stage: Stage, sizes: ModelSizes, backbones: Artifact | None, options: RunOptions, store: Store, *, aided: bool
) -> TrainingEstimate:
    """By the last run on these backbones of a stage of this name that is most like it; else by arithmetic.

    Args:
        backbones: None where they are not there yet.
        aided: vision tokens are kept for it.
    """
    run = nearest_run(stage, backbones, options, store, aided=aided) if backbones else None
    if run is None:
        return by_arithmetic(stage, sizes, options, NO_TIME)
    return TrainingEstimate(
        seconds=samples_of(stage) * run.seconds_per_sample,
        memory_bytes=run.summary["peak_memory_bytes"],
        disk_bytes=disk_bytes(stage, sizes, options),
        by="last run",
        note=_unlike(run.conditions, conditions(plain(stage, identity=True), plain(options), aided)),
    )


def conditions(stage: Mapping[str, Any], options: Mapping[str, Any], aided: bool) -> dict[str, Any]:
    """What the time of a sample and memory follow from, by name, of a run on the same backbones and kind of device."""
    felt = leaves({name: stage[name] for name in FELT_IN_STAGE})
    return {name: options[name] for name in options if name not in NOT_FELT} | {KEPT_TOKENS: aided} | felt


def _unlike(had: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In words, under what other conditions a run was measured."""
    told = [f"{name} {_value(had.get(name))}, now {_value(asked.get(name))}" for name in changed_names(had, asked)]
    return f"measured with {'; '.join(told)}" if told else ""


def _value(value: object) -> str:
    """As it is spelled on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def by_arithmetic(stage: Stage, sizes: ModelSizes, options: RunOptions, note: str) -> TrainingEstimate:
    """What is known without anything measured: weights, gradients and moments, but not what a step keeps."""
    trained = trained_parameters(sizes, stage.lora)
    frozen = parameters(sizes).total - trained_parameters(sizes, None)
    narrow = FLOAT32_BYTES if stage.precision == "float32" else FLOAT32_BYTES // 2
    return TrainingEstimate(
        seconds=None,
        memory_bytes=narrow * frozen + FLOAT32_BYTES * _values_held(options) * trained,
        disk_bytes=disk_bytes(stage, sizes, options),
        by="arithmetic",
        note=note,
    )


def _values_held(options: RunOptions) -> float:
    """How many numbers a process has at least for each trained parameter: its value, gradient and two moments.

    ZeRO divides some of them (docs/engines.md). Under ZeRO 3 a process may hold the most as it starts, when it has all
    weights and nothing else.
    """
    shared = 1 / options.processes
    return {"ddp": 4, "zero1": 2 + 2 * shared, "zero2": 1 + 3 * shared, "zero3": 1}[options.engine]


def disk_bytes(stage: Stage, sizes: ModelSizes, options: RunOptions) -> int:
    """Of the checkpoint and, while it trains, of the states that are kept and the one that is being written."""
    values = STATE_VALUES + (stage.published_accumulation > 1)  # and the gradient, which waits for its turn
    return (1 + values * (options.keep_states + 1)) * FLOAT32_BYTES * trained_parameters(sizes, stage.lora)


def samples_of(stage: Stage) -> float:
    """How many samples the stage draws, on average over the chances of its mix."""
    shares = stage.mix.values()
    batch = sum(share.weight * share.batch for share in shares) / sum(share.weight for share in shares)
    return stage.schedule.steps * batch


def nearest_run(stage: Stage, backbones: Artifact, options: RunOptions, store: Store, *, aided: bool) -> LastRun | None:
    """The earlier build that is most like what is wanted, of the newest; None where none tells anything about it.

    First the conditions of time and memory count, then the rest of the stage. Another device, size of pictures or
    language model says nothing.
    """
    wanted = plain(stage, identity=True)
    asked = conditions(wanted, plain(options), aided)
    found = [
        run
        for run in _runs(stage.name, backbones, store)
        if run.options["device"] == options.device and run.stage["image_size"] == stage.image_size
    ]

    def distance(run: LastRun) -> tuple[int, int, float]:
        return (
            len(changed_names(run.conditions, asked)),
            len(changed_names(leaves(run.stage), leaves(wanted))),
            -run.time,
        )

    return min(found, key=distance, default=None)


def _runs(name: str, backbones: Artifact, store: Store) -> list[LastRun]:
    found: list[LastRun] = []
    for record in Records(store).of_step(TRAIN.name):
        if record.name != f"{name}/train" or record.inputs.get("backbones") != backbones.digest:
            continue
        notes = store.notes(record.key)
        summary, run = summary_in(notes), spec_in(notes)
        if summary and run:
            found.append(
                LastRun(
                    stage=record.config["stage"],
                    options=run["options"],
                    aided=run.get("features") is not None,
                    summary=summary,
                    time=record.time,
                )
            )
    return found
