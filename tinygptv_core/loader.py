"""Shards and indexes -> the batch of any step.

Which samples a step sees is a pure function of (seed, mix, step) (`draws.py`). It does not depend on how many
processes train or read ahead, nor on the micro-batch, so that the step number alone is the position to resume from.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.draws import Draw, Order, random_bits
from tinygptv_core.features import Features
from tinygptv_core.image import squash
from tinygptv_core.plain import ConfigError
from tinygptv_core.prompt import Encoded, Tokenizer, collate, encode_training, with_slot_at_end
from tinygptv_core.recipe import Turn
from tinygptv_core.run import RunSpec
from tinygptv_core.shards import Sample, ShardSet

ASKING = (signal.SIGTERM, signal.SIGINT)
SAME_SECONDS = 2.0
"""Signals within so many are one request: a service manager sends it to every process, and torchrun passes it on."""


def prompt_for(prompts: tuple[str, ...], seed: int, step: int, row: int) -> str:
    """One of `prompts`, for this row of the step's whole batch. Held-out batches have step -1."""
    return prompts[int(random_bits(1, seed, "prompt", step, row)[0] % len(prompts))]


def drawn_turns(turns: Sequence[Turn], seed: int, step: int, row: int) -> tuple[Turn, ...]:
    """`turns` with one of its texts for each, for this row of the step's whole batch. Held-out batches have step -1.

    A text is drawn anew whenever the sample is seen, as in the reference. Were each text a sample of its own, a
    table of ten answers each would be ten times as long, and what more people spoke of would be seen more often.
    """
    return tuple(
        Turn(turn.role, turn.texts[int(random_bits(1, seed, "turn", step, row, place)[0] % len(turn.texts))])
        if turn.also
        else turn
        for place, turn in enumerate(turns)
    )


class Steps(Dataset[Batch]):
    """Indexed by step: the part of that step's batch which one process trains on.

    Every process gets a batch at every step. One for which no sample is left gets the first sample
    without targets, so that it takes part in the step and adds nothing to it.
    """

    def __init__(self, spec: RunSpec, tokenizer: Tokenizer, *, rank: int, world_size: int):
        self._spec, self._tokenizer, self._rank, self._world_size = spec, tokenizer, rank, world_size
        self.device = spec.options.device
        self._data = {name: ShardSet(spec.data[name]) for name in spec.stage.mix}
        self._features = Features(spec.features) if spec.features else None
        self.order = Order(spec.stage, self._data, spec.seen)

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that reads ahead opens the indexes itself instead of being sent them.
        return _open_steps, (self._spec, self._tokenizer, self._rank, self._world_size)

    def __len__(self) -> int:
        return self._spec.stage.schedule.steps

    def __getitem__(self, step: int) -> Batch:
        return self._batch(self.order.batch_at(step), step)

    def held_out(self) -> tuple[Batch, ...]:
        """This process's part of the fixed held-out batches, in the order of their data sets' names."""
        return tuple(self._batch(draw, -1) for draw in self.order.held_out())

    def _batch(self, draw: Draw, step: int) -> Batch:
        own = np.array_split(np.arange(len(draw.positions)), self._world_size)[self._rank].tolist()
        rows = own or [0]
        samples = self._samples(draw, rows)
        try:
            encoded = [self._encoded(draw, sample, step, row) for sample, row in zip(samples, rows, strict=True)]
            if any(sample.picture for sample in samples):
                encoded = [with_slot_at_end(one) if one.slot is None else one for one in encoded]
            return collate(
                encoded if own else [replace(encoded[0], labels=(IGNORED,) * len(encoded[0].ids))],
                **self._pictures(draw, samples),
                keys=[sample.key for sample in samples],
                pad_id=self._tokenizer.pad_token_id,
                side="right",
            )
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{draw.dataset}, drawn at step {step + 1}: {error}") from error

    def _samples(self, draw: Draw, rows: Sequence[int]) -> list[Sample]:
        try:
            return self._data[draw.dataset].read([draw.positions[row] for row in rows])
        except ValueError as error:  # a shard that is missing among them
            raise _damaged(draw, error) from error

    def _encoded(self, draw: Draw, sample: Sample, step: int, row: int) -> Encoded:
        stage, has_image = self._spec.stage, sample.picture is not None
        prompt = prompt_for(self._spec.prompts[draw.dataset], stage.seed, step, row)
        try:
            turns = drawn_turns(sample.turns, stage.seed, step, row)
            return encode_training(self._tokenizer, turns, prompt=prompt, stage=stage, has_image=has_image)
        except ValueError as error:
            raise ValueError(f"sample {sample.key}: {error}") from error

    def _pictures(self, draw: Draw, samples: Sequence[Sample]) -> dict[str, Any]:
        """The samples' pictures as `collate` takes them: as kept vision tokens, where there are some.

        A sample of text alone among others has a black one, or tokens of 0.
        """
        pictures = {row: sample.picture for row, sample in enumerate(samples) if sample.picture is not None}
        if not pictures:
            return {"images_B3HW": None}
        if self._features and draw.dataset in self._features.datasets:
            queries = self._features.of(list(pictures.values()))
            queries_BQE = queries.new_zeros(len(samples), *queries.shape[1:])
            queries_BQE[list(pictures)] = queries
            return {"images_B3HW": None, "queries_BQE": queries_BQE}
        size = self._spec.stage.image_size
        bytes_BHW3 = np.zeros((len(samples), size, size, 3), dtype=np.uint8)
        for row, data in pictures.items():
            try:
                squash(data, bytes_BHW3[row])
            except ValueError as error:
                raise _damaged(draw, f"sample {samples[row].key}: {error}") from error
        return {"images_B3HW": torch.from_numpy(bytes_BHW3.transpose(0, 3, 1, 2))}


def _damaged(draw: Draw, what: object) -> ConfigError:
    """A sample was read when it was fetched, and cannot be now: to train without it would be another run."""
    return ConfigError(
        f"{draw.dataset} is damaged: {what}.\n"
        "  It is not left out, for what is trained is what was fetched and screened.\n"
        "  to go on  the same command: what the store finds missing or changed is built anew\n"
        f"  to have it again although it is as it was sealed  tinygptv run --from {draw.dataset}/fetch"
    )


def _open_steps(spec: RunSpec, tokenizer: Tokenizer, rank: int, world_size: int) -> Steps:
    return Steps(spec, tokenizer, rank=rank, world_size=world_size)


class _Told(Dataset[Batch | ConfigError | OSError]):
    """Steps whose errors are values: one that a reading process raises comes as its stack trace."""

    def __init__(self, steps: Steps):
        self._steps = steps

    def __getitem__(self, step: int) -> Batch | ConfigError | OSError:
        try:
            return self._steps[step]
        except (ConfigError, OSError) as error:
            return error


def batches(steps: Steps, start: int, workers: int) -> Iterator[Batch]:
    """The batches of the steps from `start` on, read ahead by `workers` processes (0: in line).

    Raises:
        ConfigError: a shard is missing or damaged, or a sample does not fit the stage; names it.
        OSError: what reading failed of.
    """
    told = DataLoader(
        _Told(steps),
        batch_size=None,
        sampler=range(start, len(steps)),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=steps.device == "cuda",
        # A fork of a process that has threads (torch's, a cluster's) may hang.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_outlive_what_asks,
    )
    with _asking_waits() if workers else nullcontext():
        read = iter(told)
    for batch in read:
        if not isinstance(batch, Batch):
            raise batch
        yield batch


@contextmanager
def _asking_waits() -> Iterator[None]:
    """Meanwhile signals that ask to stop wait; in processes that are started here until they have come to hear them."""
    resource_tracker.ensure_running()  # Python starts it with the first of them, and lets signals through after that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_what_asks(worker: int) -> None:
    """Signals that ask training to stop come to all its processes: one that reads must serve the step at hand."""
    came: list[float] = []

    def hear(number: int, frame: object) -> None:
        came.append(time.monotonic())
        if came[-1] - came[0] > SAME_SECONDS:  # training itself wants to be rid of this process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


def _as_it_is(batch: Any) -> Any:
    return batch
