"""Mean scores with the intervals that they lie in, by what is known of their distribution or by drawing again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

RESAMPLES = 2_000
RESAMPLING_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean of scores, 0..1, or of differences between two, -1..1, and the limits of its 95 % interval."""

    value: float
    low: float
    high: float


def interval(scores: Sequence[float]) -> Interval:
    """The mean of `scores` with its 95 % interval: Wilson's when all are 0 or 1, else by bootstrap."""
    return wilson(sum(map(int, scores)), len(scores)) if set(scores) <= {0.0, 1.0} else bootstrap(scores)


def wilson(hits: int, n: int) -> Interval:
    """The share of hits among `n` (at least 1) with the score interval of 95 %.

    Source: E. B. Wilson, 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    share, square = hits / n, Z_95**2
    middle = share + square / (2 * n)
    reach = Z_95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    scale = 1 + square / n
    low = (middle - reach) / scale if hits else 0.0  # exactly: the difference of two equal numbers is not
    high = (middle + reach) / scale if hits < n else 1.0
    return Interval(value=share, low=low, high=high)


def bootstrap(scores: Sequence[float]) -> Interval:
    """The mean with the percentile bootstrap's 95 % interval over questions, each drawn by itself; seeded.

    Source: B. Efron, 1979, Annals of Statistics 7, 1-26; the percentile limits of his 1981 paper.
    """
    values = np.asarray(scores, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(RESAMPLING_SEED))
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(value=math.fsum(scores) / len(scores), low=float(low), high=float(high))


def auroc(probabilities: Sequence[float], positive: Sequence[bool]) -> Interval:
    """The share of pairs of a positive and another in which the positive has the higher probability; a tie is a half.

    With the percentile bootstrap's 95 % interval over questions; 0.5 where either kind is missing, which tells nothing.

    Source: Hanley and McNeil, 1982, Radiology 143, 29-36: the area under the ROC curve is this share.
    """
    values, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(positive, dtype=bool)
    generator = np.random.Generator(np.random.PCG64(RESAMPLING_SEED))
    draws = (generator.integers(0, len(values), len(values)) for _ in range(RESAMPLES if len(values) else 0))
    areas = [_area(values[draw], labels[draw]) for draw in draws]
    low, high = np.quantile(areas, (0.025, 0.975)) if areas else (0.0, 1.0)
    return Interval(value=_area(values, labels), low=float(low), high=float(high))


def _area(values: np.ndarray, labels: np.ndarray) -> float:
    positives, others = int(labels.sum()), int((~labels).sum())
    if not positives or not others:
        return 0.5
    ordered = np.sort(values[~labels])
    below = np.searchsorted(ordered, values[labels], side="left") + np.searchsorted(
        ordered, values[labels], side="right"
    )
    return float(below.sum() / 2 / positives / others)
