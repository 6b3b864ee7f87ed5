"""Shards and indexes -> the batch of any step.

Which samples a step sees is a pure function of (seed, mix, step). It does not depend on how many processes
train or read ahead, nor on the micro-batch, so that the step number alone is the position to resume from.
Everything random comes from `_random`, whose bits are the same with every version of numpy.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.features import Features
from tinygptv_core.image import preprocess
from tinygptv_core.plain import ConfigError
from tinygptv_core.prompt import Encoded, Tokenizer, collate, encode_training
from tinygptv_core.recipe import Turn
from tinygptv_core.run import RunSpec
from tinygptv_core.shards import Sample, ShardSet
from tinygptv_core.stages import Stage

WINDOW_SAMPLES = 10_000
"""Samples are shuffled within windows of so many, so that reading stays near in its shards."""

HELD_OUT_SHARE = 10
"""At most one sample in so many is held out of a small data set."""


def _random(count: int, *seed: object) -> np.ndarray:
    """`count` random 64 bit numbers for this seed; those for a smaller count are the first of them."""
    digest = hashlib.sha256(json.dumps(seed).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16])).random_raw(count)


def _permutation(count: int, *seed: object) -> np.ndarray:
    return np.argsort(_random(count, *seed), kind="stable")


class Shuffled:
    """One data set for one stage: its held-out samples, and an endless order of the others.

    Args:
        shard_N: which shard each sample of the index is in, ascending.
        held_out: how many samples to keep out, but at most one in `HELD_OUT_SHARE` (one, of two or more).
    """

    def __init__(self, shard_N: np.ndarray, *, name: str, seed: int, held_out: int):
        if not len(shard_N):
            raise ConfigError(f"the data set {name} has no samples left; see the reasons in its dropped.parquet")
        self._name, self._seed = name, seed
        most = max(len(shard_N) // HELD_OUT_SHARE, int(len(shard_N) > 1))
        chosen = _permutation(len(shard_N), seed, name, "held out")[: min(held_out, most)]
        self.held_out = tuple(int(position) for position in chosen)
        kept = np.delete(np.arange(len(shard_N)), chosen)
        self._shards = np.split(kept, np.flatnonzero(np.diff(shard_N[kept])) + 1)
        self.epoch_samples = len(kept)
        self._epoch = lru_cache(maxsize=2)(self._new_epoch)

    def _new_epoch(self, epoch: int) -> np.ndarray:
        """All samples but the held-out ones: shards permuted, then samples within windows."""
        shards = _permutation(len(self._shards), self._seed, self._name, epoch, "shards")
        order = np.concatenate([self._shards[shard] for shard in shards])
        windows = range(0, len(order), WINDOW_SAMPLES)
        return np.concatenate(
            [
                part[_permutation(len(part), self._seed, self._name, epoch, "window", start)]
                for start in windows
                if len(part := order[start : start + WINDOW_SAMPLES])
            ]
        )

    def take(self, start: int, count: int) -> tuple[int, ...]:
        """`count` positions from the `start`-th of the endless order, going on from epoch to epoch."""
        places = range(start, start + count)
        return tuple(int(self._epoch(place // self.epoch_samples)[place % self.epoch_samples]) for place in places)


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
            name: Shuffled(
                np.asarray(data[name].records["shard"]), name=name, seed=stage.seed, held_out=stage.held_out_samples
            )
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
        rows = np.array_split(np.arange(len(draw.positions)), self._world_size)[self._rank]
        samples = [self._sample(draw, step, int(row)) for row in rows]
        if not samples:
            sample, encoded = self._sample(draw, step, 0)
            samples = [(sample, replace(encoded, labels=(IGNORED,) * len(encoded.ids)))]
        try:
            return collate(
                [encoded for _, encoded in samples],
                **self._pictures(draw.dataset, [sample for sample, _ in samples]),
                keys=[sample.key for sample, _ in samples],
                pad_id=self._tokenizer.pad_token_id,
                side="right",
            )
        except ValueError as error:
            raise ValueError(f"{draw.dataset}, step {step}: {error}") from error

    def _sample(self, draw: Draw, step: int, row: int) -> tuple[Sample, Encoded]:
        stage, sample = self._spec.stage, self._data[draw.dataset][draw.positions[row]]
        prompt = prompt_for(self._spec.prompts[draw.dataset], stage.seed, step, row)
        try:
            has_image = sample.picture is not None
            turns = drawn_turns(sample.turns, stage.seed, step, row)
            encoded = encode_training(self._tokenizer, turns, prompt=prompt, stage=stage, has_image=has_image)
        except ValueError as error:
            raise ValueError(f"{draw.dataset}, sample {sample.key}: {error}") from error
        return sample, encoded

    def _pictures(self, dataset: str, samples: Sequence[Sample]) -> dict[str, Any]:
        """The samples' pictures as `collate` takes them: as kept vision tokens, where there are some."""
        pictures = [(sample.key, sample.picture) for sample in samples if sample.picture is not None]
        if not pictures:
            return {"images": None}
        if self._features and dataset in self._features.datasets:
            return {"images": None, "queries_BQE": self._features.of([data for _, data in pictures])}
        return {"images": [self._image(key, data) for key, data in pictures]}

    def _image(self, key: str, data: bytes) -> np.ndarray:
        try:
            return preprocess(data, self._spec.stage.image_size)
        except ValueError as error:
            raise ValueError(f"sample {key}: {error}") from error


def _open_steps(spec: RunSpec, tokenizer: Tokenizer, rank: int, world_size: int) -> Steps:
    return Steps(spec, tokenizer, rank=rank, world_size=world_size)


def batches(steps: Steps, start: int, workers: int) -> DataLoader[Batch]:
    """The batches of the steps from `start` on, read ahead by `workers` processes (0: in line)."""
    return DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, len(steps)),
        num_workers=workers,
        collate_fn=_as_it_is,
        # A fork of a process that has threads (torch's, a cluster's) may hang.
        multiprocessing_context="spawn" if workers else None,
    )


def _as_it_is(batch: Any) -> Any:
    return batch
