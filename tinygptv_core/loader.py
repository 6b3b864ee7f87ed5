"""Shards and indexes -> the batch of any step.

Which samples a step sees is a pure function of (seed, mix, step). It does not depend on how many processes
train or read ahead, nor on the micro-batch, so that the step number alone is the position to resume from.
Everything random comes from `_random`, whose bits are the same with every version of numpy.
"""

import hashlib
import json
import signal
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.features import Features
from tinygptv_core.image import squash
from tinygptv_core.ordering import places
from tinygptv_core.plain import ConfigError
from tinygptv_core.prompt import Encoded, Tokenizer, collate, encode_training, with_slot_at_end
from tinygptv_core.recipe import Turn
from tinygptv_core.run import RunSpec
from tinygptv_core.shards import Sample, ShardSet
from tinygptv_core.stages import Stage

ORDER_VERSION = 2
"""Of what `Order` gives: a run that was begun with another cannot go on."""

WINDOW_ROWS = 10_000
"""Samples are shuffled within windows of so many rows of the ledger, so that reading stays near in its shards."""

ROWS_AT_ONCE = 100
"""Random rows that are drawn at once."""

HELD_OUT_SHARE = 10
"""At most one sample in so many is held out of a small data set."""


def _random(count: int, *seed: object) -> np.ndarray:
    """`count` random 64 bit numbers for this seed; those for a smaller count are the first of them."""
    digest = hashlib.sha256(json.dumps(seed).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16])).random_raw(count)


class Shuffled:
    """One data set for one stage: its held-out samples, and an endless order of the others.

    A sample's place in the order follows from its row in the ledger, where every link has one, dead or alive: a sample
    that comes or goes moves no two others past each other. What is kept in memory grows with the windows, not with the
    samples.

    Args:
        row_N: the samples' rows, ascending (`ShardSet.rows`).
        held_out: how many samples to keep out, but at most one in `HELD_OUT_SHARE` (one, of two or more). A data set
            that grows past a power of two rows has others held out.
    """

    def __init__(self, row_N: Sequence[int], *, name: str, seed: int, held_out: int):
        samples = len(row_N)
        if not samples:
            raise ConfigError(f"the data set {name} has no samples left; see the reasons in its dropped.parquet")
        self._row_N, self._name, self._seed = row_N, name, seed
        most = max(samples // HELD_OUT_SHARE, int(samples > 1))
        self.held_out = tuple(islice(self._drawn(), min(held_out, most)))
        self._left_out = np.sort(np.array(self.held_out, dtype=np.int64))
        self._ends = self._window_ends()
        left_out_W = np.diff(np.searchsorted(self._left_out, self._ends), prepend=0)
        self._kept = np.diff(self._ends, prepend=0) - left_out_W
        self.epoch_samples = int(self._kept.sum())
        self._windows = lru_cache(maxsize=2)(self._new_windows)
        self._window = lru_cache(maxsize=2)(self._new_window)

    def _drawn(self) -> Iterator[int]:
        """Positions in a random order, each once: rows are drawn until one has a sample that was not drawn yet."""
        shift = np.uint64(64 - int(self._row_N[-1]).bit_length())
        seen: set[int] = set()
        for draw in count():
            numbers = _random(ROWS_AT_ONCE, self._seed, self._name, "held out", draw)
            for row in (numbers >> shift).tolist() if shift < 64 else [0]:
                position = bisect_left(self._row_N, row)
                if position < len(self._row_N) and self._row_N[position] == row and position not in seen:
                    seen.add(position)
                    yield position

    def _window_ends(self) -> np.ndarray:
        """How many samples there are up to the end of each window of rows."""
        ends = [0]
        for end in range(WINDOW_ROWS, int(self._row_N[-1]) + WINDOW_ROWS + 1, WINDOW_ROWS):
            ends.append(bisect_left(self._row_N, end, lo=ends[-1]))
        return np.array(ends[1:], dtype=np.int64)

    def _new_windows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The windows as this epoch has them one after another, and where in the epoch each ends."""
        windows = np.flatnonzero(self._kept)
        order = windows[np.argsort(places(windows, self._seed, self._name, epoch, "windows"))]
        return order, np.cumsum(self._kept[order])

    def _new_window(self, epoch: int, window: int) -> np.ndarray:
        """The positions of a window's samples but the held-out ones, shuffled."""
        end = int(self._ends[window])
        start = int(self._ends[window - 1]) if window else 0
        first, last = np.searchsorted(self._left_out, [start, end])
        positions = np.delete(np.arange(start, end), self._left_out[first:last] - start)
        row_N = np.asarray(self._row_N[start:end], dtype=np.int64)[positions - start]
        return positions[np.argsort(places(row_N, self._seed, self._name, epoch, "samples"))]

    def _position(self, place: int) -> int:
        epoch, within = divmod(place, self.epoch_samples)
        windows, ends = self._windows(epoch)
        nth = int(np.searchsorted(ends, within, side="right"))
        window = int(windows[nth])
        return int(self._window(epoch, window)[within - (int(ends[nth]) - int(self._kept[window]))])

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
    """The samples of every step of a stage.

    Args:
        seen: how many samples of each data set earlier stages have drawn; the order goes on from there.
    """

    def __init__(self, stage: Stage, data: Mapping[str, ShardSet], seen: Mapping[str, int]):
        self._stage, self._seen = stage, seen
        self._names = sorted(stage.mix)  # not the mix's own order, which is no part of the stage's identity
        self._shuffled = {
            name: Shuffled(data[name].rows, name=name, seed=stage.seed, held_out=stage.held_out_samples)
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
        start = self._seen.get(name, 0) + earlier * batch
        return Draw(dataset=name, positions=self._shuffled[name].take(start, batch))

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
        worker_init_fn=_outlive_a_signal,
    )
    for batch in told:
        if not isinstance(batch, Batch):
            raise batch
        yield batch


def _outlive_a_signal(worker: int) -> None:
    """Signals that ask training to stop come to all its processes: one that reads must serve the step at hand."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The second one, if training itself wants to be rid of this process, ends it.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _as_it_is(batch: Any) -> Any:
    return batch
