"""What is told of a run while it trains: gathered at every step, written at the logged ones.

Only at a logged step does the host wait for the device, and do the processes tell each other anything.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tinygptv_core.batch import Batch
from tinygptv_core.engine import Engine, StepResult
from tinygptv_core.memory import peak_memory_bytes
from tinygptv_core.run import RunSpec
from tinygptv_core.sizes import ModelSizes
from tinygptv_core.training.flops import NO_WORK, Work, needed_flops, peak_flops, work_of
from tinygptv_core.training.metrics import Line, MetricsFile
from tinygptv_core.training.monitor import TrainingMonitor
from tinygptv_core.training.processes import gathered
from tinygptv_core.training.states import Position, StepLoss

LOGGER = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Since:
    """What the steps since the last logged one did; losses stay on the device."""

    datasets: list[str] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    samples: int = 0
    work: Work = NO_WORK
    data_seconds: float = 0.0


class MetricsLogger:
    """Writes `metrics.jsonl` in `spec.notes`.

    Every process has one and calls the same methods at the same steps; the first one writes.

    Args:
        sizes: of the model, by which the needed operations are counted.
        start: where the run goes on; of what a killed run left, lines beyond are dropped. The first line's losses are
            about the steps since the last one all the same; its times are those of this process.
    """

    def __init__(
        self, spec: RunSpec, engine: Engine, sizes: ModelSizes, *, rank: int, world_size: int, start: Position
    ):
        self._spec, self._engine, self._sizes = spec, engine, sizes
        self._rank, self._world_size = rank, world_size
        self._metrics = MetricsFile(spec.notes / "metrics.jsonl", after_step=start.step) if rank == 0 else None
        self._monitor, self._logged, self._since = TrainingMonitor(start.watched), start, _Since()
        self._before = start.unlogged
        self._read: dict[str, Any] = {}
        self._peak = _peak(spec)
        engine.seconds()  # what processes waited for each other before the first step, for the loss on held-out samples

    def waited_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; how long each let the run wait is counted."""
        before = time.monotonic()
        for batch in batches:
            self._since.data_seconds += time.monotonic() - before
            yield batch
            before = time.monotonic()

    def is_due(self, finished: int) -> bool:
        """Whether the step that makes it `finished` steps is logged."""
        return finished % self._spec.options.log_every_steps == 0 or finished == self._spec.stage.schedule.steps

    def add(self, finished: int, dataset: str, batch: Batch, result: StepResult) -> None:
        """Take in one step. At a logged one wait until the device has done it.

        Args:
            finished: steps with this one.
            batch: this process's part, on the CPU.
        """
        since = self._since
        since.datasets.append(dataset)
        since.losses.append(result.loss)
        since.samples += self._spec.stage.mix[dataset].batch
        since.work += work_of(batch, self._sizes.qformer.queries)
        if self.is_due(finished):
            self._read = result.read()

    def line(self, here: Position, rate: float) -> Line | None:
        """Write the line of a logged step, and return it; None at other steps and in other processes.

        Args:
            rate: of the step.
        """
        if not self.is_due(here.step):
            return None
        told, since = self._unlogged(), self._since
        self._before, self._since = (), _Since()
        parts = gathered((since.work, peak_memory_bytes(self._spec.options.device)), self._world_size)
        if self._metrics is None:
            return None
        steps, seconds = len(since.losses), here.seconds - self._logged.seconds
        line = {
            "step": here.step,
            **self._read,
            "loss_mean": fmean(one.loss for one in told),
            "losses": _means(told),
            "rate": rate,
            **self._speed(since.samples, sum((work for work, _ in parts), NO_WORK), seconds),
            "memory_bytes": max(memory for _, memory in parts),
            "seconds": here.seconds,
            "step_seconds": self._split(since.data_seconds, seconds, steps),
            "warnings": self._warnings(told, here.step),
        }
        self._metrics.write(line)
        self._logged = here
        return line

    def _speed(self, samples: int, work: Work, seconds: float) -> dict[str, float | None]:
        """Of all processes together. MFU is None where nobody knows what the devices can do."""
        lora, size = self._spec.stage.lora, self._spec.stage.image_size
        flops = needed_flops(self._sizes, work, image_size=size, lora_rank=lora.rank if lora else 0).total / seconds
        return {
            "samples_per_second": samples / seconds,
            "tokens_per_second": work.positions / seconds,
            "targets_per_second": work.targets / seconds,
            "flops_per_second": flops,
            "mfu": flops / (self._peak * self._world_size) if self._peak else None,
        }

    def _split(self, data_seconds: float, seconds: float, steps: int) -> dict[str, float]:
        """Where this process's time went, the mean of a step; what has no name of its own is `other`.

        While the host waits for data a GPU may still compute the step before: what it computes takes no time twice.
        """
        engine = self._engine.seconds()
        beside = max(0.0, seconds - sum(engine.values()))
        data = min(data_seconds, beside)
        parts = {"data": data, **engine, "other": beside - data}
        return {name: value / steps for name, value in parts.items()}

    def position(self, here: Position) -> Position:
        """`here`, with the losses that the next line will be about, and what is usual. Waits for the device."""
        return replace(here, unlogged=self._unlogged(), watched=self._monitor.state())

    def _unlogged(self) -> tuple[StepLoss, ...]:
        since = self._since
        losses = torch.stack(since.losses).tolist() if since.losses else []
        own = (StepLoss(dataset=name, loss=loss) for name, loss in zip(since.datasets, losses, strict=True))
        return (*self._before, *own)

    def _warnings(self, told: Sequence[StepLoss], last: int) -> list[str]:
        found: list[str] = []
        for step, one in enumerate(told, start=last - len(told) + 1):
            found += self._monitor.see_loss(step, one.dataset, one.loss)
        found += self._monitor.see_norm(last, self._read["gradient_norm"])
        for text in found:
            LOGGER.warning("%s: %s", self._spec.stage.name, text)
        return found


def _peak(spec: RunSpec) -> float | None:
    """What one device can do at most, in FLOP/s, where that is known: of GPUs in 16 bits."""
    if spec.options.device != "cuda" or spec.stage.precision == "float32":
        return None
    return peak_flops(torch.cuda.get_device_name())


def _means(told: Sequence[StepLoss]) -> dict[str, float]:
    """The mean loss of each data set, by its name."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for one in told:
        found[one.dataset].append(one.loss)
    return {name: fmean(found[name]) for name in sorted(found)}
