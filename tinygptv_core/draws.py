"""The order of samples: which ones a step of training sees, as a pure function of (seed, mix, step).

Without torch, so that whoever asks which steps saw a sample need not train. Everything random comes from `random_bits`,
whose bits are the same with every version of numpy.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count, islice
from typing import Protocol

import numpy as np

from tinygptv_core.ordering import places
from tinygptv_core.plain import ConfigError
from tinygptv_core.stage import Stage

ORDER_VERSION = 2
"""Of what `Order` gives: a run that was begun with another cannot go on."""

WINDOW_ROWS = 10_000
"""Samples are shuffled within windows of so many rows of the ledger, so that reading stays near in its shards."""

ROWS_AT_ONCE = 100
"""Random rows that are drawn at once."""

HELD_OUT_SHARE = 10
"""At most one sample in so many is held out of a small data set."""


def random_bits(count: int, *seed: object) -> np.ndarray:
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
            numbers = random_bits(ROWS_AT_ONCE, self._seed, self._name, "held out", draw)
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

    def places(self, positions: Sequence[int], start: int, count: int) -> dict[int, list[int]]:
        """Where, in the `count` places from the `start`-th on, each of `positions` stands; the inverse of `take`."""
        found: dict[int, list[int]] = {position: [] for position in positions}
        inside = np.array(sorted(found.keys() - set(self.held_out)), dtype=np.int64)
        window_of = np.searchsorted(self._ends, inside, side="right")
        for epoch in range(start // self.epoch_samples, (start + count - 1) // self.epoch_samples + 1 if count else 0):
            windows, ends = self._windows(epoch)
            for window in np.unique(window_of).tolist():
                asked, order = inside[window_of == window], self._window(epoch, window)
                end = epoch * self.epoch_samples + int(ends[np.flatnonzero(windows == window)[0]])
                ascending = np.argsort(order)
                within = ascending[np.searchsorted(order, asked, sorter=ascending)]
                for position, place in zip(asked.tolist(), (end - len(order) + within).tolist(), strict=True):
                    if start <= place < start + count:
                        found[position].append(place)
        return found

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


class Indexed(Protocol):
    """A data set's samples, as far as their order goes."""

    @property
    def rows(self) -> Sequence[int]:
        """row_N: which row of the ledger each sample is, ascending."""
        ...


class Order:
    """The samples of every step of a stage.

    Args:
        seen: how many samples of each data set earlier stages have drawn; the order goes on from there.
    """

    def __init__(self, stage: Stage, data: Mapping[str, Indexed], seen: Mapping[str, int]):
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
        return drawn_places(weights, random_bits(self._stage.schedule.steps, self._stage.seed, "mix") / 2.0**64)

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

    def steps_of(self, name: str, positions: Sequence[int]) -> dict[int, list[int]]:
        """The steps (0, 1, ...) that see each of these samples of a data set, one of the mix."""
        steps, batch = np.flatnonzero(self._choices == self._names.index(name)), self._stage.mix[name].batch
        start = self._seen.get(name, 0)
        found = self._shuffled[name].places(positions, start, len(steps) * batch)
        return {at: [int(steps[(place - start) // batch]) for place in places] for at, places in found.items()}

    def is_held_out(self, name: str, position: int) -> bool:
        """Whether the sample is kept out of training, to measure the loss on."""
        return position in self._shuffled[name].held_out

    def held_out(self) -> tuple[Draw, ...]:
        """One fixed batch of held-out samples for each data set that has some."""
        parts = {name: self._shuffled[name].held_out[: self._stage.mix[name].batch] for name in self._names}
        return tuple(Draw(dataset=name, positions=positions) for name, positions in parts.items() if positions)
