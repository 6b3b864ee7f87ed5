"""What is warned of while training: a loss that leaps, and gradients that have died."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

WINDOW = 50
"""Of each data set so many of its last losses, and of gradients so many norms, say what is usual."""
LEAST = 10
"""With fewer than so many nothing is usual yet."""
DEVIATIONS = 10.0
"""A loss leaps when it is so many deviations above the median. Losses of one sample each have a long tail."""
NATS = 0.5
"""... and by so much at least: late in a stage losses hardly vary, and a small step is no leap."""
SIGMAS = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""
DEAD_SHARE = 1e-4
"""Gradients are dead below this share of their median norm."""
DEAD_LINES = 3
"""... for so many logged steps in a row."""


@dataclass(frozen=True, kw_only=True)
class MonitorState:
    """What a run is judged by: a resumed one by what came before it was stopped.

    Attributes:
        losses: data set -> its last losses, in nats; at most `WINDOW`.
        leaping: the data sets whose last loss leapt, which has been told.
        norms: the last of the gradients' norms that were not dead; at most `WINDOW`.
        dead_lines: logged steps in a row up to now whose gradients were dead.
    """

    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    leaping: tuple[str, ...] = ()
    norms: tuple[float, ...] = ()
    dead_lines: int = 0


def leap_above(before: Sequence[float]) -> float | None:
    """The loss above which the next one leaps; None while too few came before.

    Median and median absolute deviation, which a few leaps among `before` do not move.
    """
    if len(before) < LEAST:
        return None
    middle = median(before)
    deviation = SIGMAS * median(abs(loss - middle) for loss in before)
    return middle + max(DEVIATIONS * deviation, NATS)


def is_dead(before: Sequence[float], norm: float) -> bool:
    """Whether gradients of this norm move nothing any more, measured by the norms before."""
    return norm == 0 or (len(before) >= LEAST and norm < DEAD_SHARE * median(before))


class TrainingMonitor:
    """Follows a run and says in words what is wrong, each event once: it is over when all is as usual again."""

    def __init__(self, before: MonitorState) -> None:
        self._losses: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        for dataset, losses in before.losses.items():
            self._losses[dataset].extend(losses)
        self._leaping = set(before.leaping)
        self._norms: deque[float] = deque(before.norms, maxlen=WINDOW)
        self._dead = before.dead_lines

    def state(self) -> MonitorState:
        """What it goes on from."""
        return MonitorState(
            losses={dataset: tuple(losses) for dataset, losses in self._losses.items()},
            leaping=tuple(sorted(self._leaping)),
            norms=tuple(self._norms),
            dead_lines=self._dead,
        )

    def see_loss(self, step: int, dataset: str, loss: float) -> list[str]:
        """Warnings about the loss of one step. Data sets are judged each by itself, for their losses differ."""
        before = self._losses[dataset]
        bound = leap_above(before)
        leaps, told = bound is not None and loss > bound, dataset in self._leaping
        (self._leaping.add if leaps else self._leaping.discard)(dataset)
        usual = median(before) if before else loss
        before.append(loss)
        if not leaps or told:
            return []
        return [f"the loss leapt to {loss:.3f} at step {step}, on {dataset}, from a median of {usual:.3f}"]

    def see_norm(self, step: int, norm: float | None) -> list[str]:
        """Warnings about the gradients' norm at a logged step; None, where nothing was stepped, says nothing."""
        if norm is None:
            return []
        if not is_dead(self._norms, norm):
            self._norms.append(norm)
            self._dead = 0
            return []
        self._dead += 1
        if self._dead != DEAD_LINES:
            return []
        usual = f", from a median of {median(self._norms):.2g}" if self._norms else ""
        return [f"the gradients are dead at step {step}: their norm is {norm:.2g}{usual}"]
