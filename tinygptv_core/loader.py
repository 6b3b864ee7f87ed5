"""Shards and indexes -> the batch of any step.

Which samples a step sees is a pure function of (seed, mix, step). It does not depend on how many processes
train or read ahead, nor on the micro-batch, so that the step number alone is the position to resume from.
Everything random comes from `_random`, whose bits are the same with every version of numpy.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.features import Features
from tinygptv_core.image import squash
from tinygptv_core.plain import ConfigError
from tinygptv_core.prompt import Encoded, Tokenizer, collate, encode_training
from tinygptv_core.recipe import Turn
from tinygptv_core.run import RunSpec
from tinygptv_core.shards import Sample, ShardSet
from tinygptv_core.stages import Stage

WINDOW_SAMPLES = 10_000
"""Samples are shuffled within windows of so many, so that reading stays near in its shards."""

NUMBERS_AT_ONCE = 1_000_000
"""Random numbers that are drawn at once, where all that are drawn need not be kept."""

HELD_OUT_SHARE = 10
"""At most one sample in so many is held out of a small data set."""


def _bits(*seed: object) -> np.random.Philox:
    digest = hashlib.sha256(json.dumps(seed).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16]))


def _random(count: int, *seed: object) -> np.ndarray:
    """`count` random 64 bit numbers for this seed; those for a smaller count are the first of them."""
    return _bits(*seed).random_raw(count)


def _permutation(count: int, *seed: object) -> np.ndarray:
    return np.argsort(_random(count, *seed), kind="stable")


def _chosen(most: int, count: int, *seed: object) -> np.ndarray:
    """The first `most` of `_permutation(count, *seed)`, which itself is never held in memory."""
    bits = _bits(*seed)
    numbers, places = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    for start in range(0, count if most else 0, NUMBERS_AT_ONCE):
        drawn = bits.random_raw(min(NUMBERS_AT_ONCE, count - start))
        lower = np.flatnonzero(drawn < numbers[-1]) if len(numbers) == most else np.arange(len(drawn))
        numbers, places = np.append(numbers, drawn[lower]), np.append(places, lower + start)
        first = np.argsort(numbers, kind="stable")[:most]
        numbers, places = numbers[first], places[first]
    return places


class Shuffled:
    """One data set for one stage: its held-out samples, and an endless order of the others.

    What it keeps in memory grows with the shards, not with the samples.

    Args:
        samples_S: how many samples of the index each shard has (`ShardSet.samples_per_shard`).
        held_out: how many samples to keep out, but at most one in `HELD_OUT_SHARE` (one, of two or more).
    """

    def __init__(self, samples_S: np.ndarray, *, name: str, seed: int, held_out: int):
        samples = int(samples_S.sum())
        if not samples:
            raise ConfigError(f"the data set {name} has no samples left; see the reasons in its dropped.parquet")
        self._name, self._seed = name, seed
        most = max(samples // HELD_OUT_SHARE, int(samples > 1))
        chosen = _chosen(min(held_out, most), samples, seed, name, "held out")
        self.held_out = tuple(int(position) for position in chosen)
        self._left_out = np.sort(chosen)
        self._ends = np.cumsum(samples_S)
        left_out_S = np.diff(np.searchsorted(self._left_out, self._ends), prepend=0)
        self._kept = samples_S - left_out_S
        self.epoch_samples = int(self._kept.sum())
        self._shards = lru_cache(maxsize=2)(self._new_shards)
        self._window = lru_cache(maxsize=2)(self._new_window)

    def _new_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards as this epoch has them one after another, and where in the epoch each ends."""
        shards = np.flatnonzero(self._kept)
        order = shards[_permutation(len(shards), self._seed, self._name, epoch, "shards")]
        return order, np.cumsum(self._kept[order])

    def _new_window(self, epoch: int, start: int) -> np.ndarray:
        """The epoch's samples from the `start`-th on, as many as a window has, shuffled."""
        shards, ends = self._shards(epoch)
        end = min(start + WINDOW_SAMPLES, self.epoch_samples)
        first, last = np.searchsorted(ends, [start, end - 1], side="right")
        in_order = np.concatenate([self._samples_of(shard) for shard in shards[first : last + 1]])
        skipped = start - int(ends[first] - self._kept[shards[first]])
        part = in_order[skipped : skipped + end - start]
        return part[_permutation(len(part), self._seed, self._name, epoch, "window", start)]

    def _samples_of(self, shard: int) -> np.ndarray:
        """The positions of a shard's samples but the held-out ones."""
        start, end = self._ends[shard - 1] if shard else 0, self._ends[shard]
        first, last = np.searchsorted(self._left_out, [start, end])
        return np.delete(np.arange(start, end), self._left_out[first:last] - start)

    def _position(self, place: int) -> int:
        epoch, within = divmod(place, self.epoch_samples)
        inside = within % WINDOW_SAMPLES
        return int(self._window(epoch, within - inside)[inside])

    def take(self, start: int, count: int) -> tuple[int, ...]:
        """`count` positions from the `start`-th of the endless order, going on from epoch to epoch."""
        return tuple(self._position(place) for place in range(start, start + count))


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one step sees: positions in the index of one data set, for all processes together."""

    dataset: str
    positions: tuple[int, ...]


def drawn_places(weights: Sequence[float], uniform_N: np.ndarray) -> np.ndarray:
    """For each number of `uniform_N` (0 <= number < 1) a place in `weights`, with probability weight / sum.

    The rule of Python's `random.choices`, so that the reference's numbers give the reference's choices.
    """
    bounds = np.cumsum(weights)
    return np.minimum(np.searchsorted(bounds, uniform_N * bounds[-1], side="right"), len(bounds) - 1)


class Order:
    """The samples of every step of a stage."""

    def __init__(self, stage: Stage, data: Mapping[str, ShardSet]):
        self._stage = stage
        self._names = sorted(stage.mix)  # not the mix's own order, which is no part of the stage's identity
        self._shuffled = {
            name: Shuffled(data[name].samples_per_shard(), name=name, seed=stage.seed, held_out=stage.held_out_samples)
            for name in self._names
        }

    @cached_property
    def _choices(self) -> np.ndarray:
        """For every step the place of its data set in `_names`."""
        weights = [self._stage.mix[name].weight for name in self._names]
        return drawn_places(weights, _random(self._stage.schedule.steps, self._stage.seed, "mix") / 2.0**64)

    def dataset_at(self, step: int) -> str:
        """The data set that step 0, 1, ... draws from."""
        return self._names[self._choices[step]]

    def batch_at(self, step: int) -> Draw:
        """What step 0, 1, ... sees."""
        name = self.dataset_at(step)
        earlier = int(np.count_nonzero(self._choices[:step] == self._choices[step]))
        batch = self._stage.mix[name].batch
        return Draw(dataset=name, positions=self._shuffled[name].take(earlier * batch, batch))

    def held_out(self) -> tuple[Draw, ...]:
        """One fixed batch of held-out samples for each data set that has some."""
        parts = {name: self._shuffled[name].held_out[: self._stage.mix[name].batch] for name in self._names}
        return tuple(Draw(dataset=name, positions=positions) for name, positions in parts.items() if positions)


def prompt_for(prompts: tuple[str, ...], seed: int, step: int, row: int) -> str:
    """One of `prompts`, for this row of the step's whole batch. Held-out batches have step -1."""
    return prompts[int(_random(1, seed, "prompt", step, row)[0] % len(prompts))]


def drawn_turns(turns: Sequence[Turn], seed: int, step: int, row: int) -> tuple[Turn, ...]:
    """`turns` with one of its texts for each, for this row of the step's whole batch. Held-out batches have step -1.

    A text is drawn anew whenever the sample is seen, as in the reference. Were each text a sample of its own, a
    table of ten answers each would be ten times as long, and what more people spoke of would be seen more often.
    """
    return tuple(
        Turn(turn.role, turn.texts[int(_random(1, seed, "turn", step, row, place)[0] % len(turn.texts))])
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
        self._data = {name: ShardSet(spec.data[name]) for name in spec.stage.mix}
        self._features = Features(spec.features) if spec.features else None
        self.order = Order(spec.stage, self._data)

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
        except ConfigError:
            raise
        except ValueError as error:
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
        """The samples' pictures as `collate` takes them: as kept vision tokens, where there are some."""
        pictures = [(sample.key, sample.picture) for sample in samples if sample.picture is not None]
        if not pictures:
            return {"images_B3HW": None}
        if self._features and draw.dataset in self._features.datasets:
            return {"images_B3HW": None, "queries_BQE": self._features.of([data for _, data in pictures])}
        size = self._spec.stage.image_size
        bytes_BHW3 = np.empty((len(pictures), size, size, 3), dtype=np.uint8)
        for (key, data), bytes_HW3 in zip(pictures, bytes_BHW3, strict=True):
            try:
                squash(data, bytes_HW3)
            except ValueError as error:
                raise _damaged(draw, f"sample {key}: {error}") from error
        return {"images_B3HW": torch.from_numpy(bytes_BHW3.transpose(0, 3, 1, 2))}


def _damaged(draw: Draw, what: object) -> ConfigError:
    """A sample was read when it was fetched, and cannot be now: to train without it would be another run."""
    return ConfigError(
        f"{draw.dataset} is damaged: {what}.\n"
        "  It is not left out, for what is trained is what was fetched and screened.\n"
        f"  to have it again  tinygptv run --from {draw.dataset}/fetch"
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
        # A fork of a process that has threads (torch's, a cluster's) may hang.
        multiprocessing_context="spawn" if workers else None,
    )
    for batch in told:
        if not isinstance(batch, Batch):
            raise batch
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch
