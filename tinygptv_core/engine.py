"""What every engine is and shares: `training/ddp.py` has DDP's, `tasks/zero.py` DeepSpeed's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor

from tinygptv_core.batch import Batch
from tinygptv_core.stage import Stage

BETAS = (0.9, 0.999)
EPSILON = 1e-8
SMALLEST_SCALE = 1.0

LISTED_NAMES = 3
"""Of tensors, in a message."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step gave, still on the device: to compute with it costs no waiting, to make a number of it does.

    Attributes:
        loss: the mean loss of the whole batch's target tokens, over all processes; float64, without dimensions.
        gradient_norm: of all gradients together before clipping, without dimensions; None for a step that only adds
            its gradients to the next one's.
    """

    loss: Tensor
    gradient_norm: Tensor | None

    def read(self) -> dict[str, float | None]:
        """{"loss", "gradient_norm"} as numbers, for which the host waits: for a logged line, not for every step.

        The norm is None for a step without one of the optimizer: it only added its gradients, or a float16 scaler
        skipped it. On a GPU a loss may not be finite here, and the next step raises.
        """
        norm = None if self.gradient_norm is None else float(self.gradient_norm)
        return {"loss": float(self.loss), "gradient_norm": norm if norm is not None and isfinite(norm) else None}


class Engine(Protocol):
    """What trains. Every process of a run has one, and all call the same methods in the same order.

    That holds for each of them, `state` too: what it gives may lie in pieces in all processes.
    """

    def step(self, batch: Batch, *, step: int, rate: float, dataset: str) -> StepResult:
        """One optimizer step on this process's part of the batch. Raises NotFiniteError."""
        ...

    def seconds(self) -> dict[str, float]:
        """Of each of `clock.PARTS` since this was last asked, summed over the steps. Waits for the device."""
        ...

    def mean_loss(self, batches: Sequence[Batch]) -> float | None:
        """The mean loss of all target tokens of all processes' batches, in eval mode; None without any.

        Raises NotFiniteError.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """All that must be restored to go on to the same bits, whole in every process.

        It is the same for all engines and numbers of processes, so that any of them can go on from it:
        `parameter/NAME`; `exp_avg/NAME`, `exp_avg_sq/NAME` and `step/NAME` of what has been stepped; `gradient/NAME`
        of what is yet to be; all in float32. And in float16 `scaler`: the loss scale, and the steps since it grew.
        """
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        ...


def is_due(stage: Stage, step: int) -> bool:
    """Whether the optimizer is stepped. As in the reference, what an epoch leaves over leaks into the next."""
    in_epoch = step % stage.schedule.epoch_steps
    return (in_epoch + 1) % stage.published_accumulation == 0


def check_parameters(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raises ValueError when `tensors`, an engine's state, is of others than `parameters`."""
    names = {name.removeprefix("parameter/") for name in tensors if name.startswith("parameter/")}
    if names != parameters.keys():
        raise ValueError(f"the state has other parameters: {sorted(names ^ set(parameters))[:LISTED_NAMES]}")


def scaler_tensor(scaler: torch.amp.GradScaler) -> Tensor:
    """The two numbers of a scaler that change."""
    told = scaler.state_dict()
    return torch.tensor([told["scale"], told["_growth_tracker"]], dtype=torch.float64)


def load_scaler(scaler: torch.amp.GradScaler, tensor: Tensor) -> None:
    """Go on from what `scaler_tensor` gave."""
    scale, growth = tensor.tolist()
    scaler.load_state_dict({**scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})


def step_scaler(scaler: torch.amp.GradScaler, *, overflowed: bool) -> None:
    """As the scaler's own update after a step: halved where it overflowed, doubled after many that did not."""
    if not scaler.is_enabled():
        return
    scale, grown = scaler_tensor(scaler).tolist()
    scale, grown = (scale * scaler.get_backoff_factor(), 0) if overflowed else (scale, grown + 1)
    if grown == scaler.get_growth_interval():
        scale, grown = scale * scaler.get_growth_factor(), 0
    load_scaler(scaler, torch.tensor([scale, grown], dtype=torch.float64))


def micro_batches(batch: Batch, most: int | None) -> list[Batch]:
    """`batch` in parts of at most `most` samples, without its layout; None leaves it whole."""
    if most is None or len(batch.keys) <= most:
        return [batch]
    parts = [slice(start, start + most) for start in range(0, len(batch.keys), most)]
    whole = {name: value for name, value in vars(replace(batch, layout=None)).items() if value is not None}
    return [replace(batch, layout=None, **{name: value[part] for name, value in whole.items()}) for part in parts]
