"""One optimizer step over all processes, exactly the step that one process would do with the whole batch.

The loss is the sum over every target token of the batch divided by their number, whichever process or
micro-batch they are in. Nothing is stepped with a number that is not finite.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.prepack import prepack
from tinygptv_core.run import RunOptions
from tinygptv_core.stages import Stage
from tinygptv_core.trainable import parameter_groups, trainable_parameters

BETAS = (0.9, 0.999)
EPSILON = 1e-8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMALLEST_SCALE = 1.0
LISTED_NAMES = 3


class NotFiniteError(FloatingPointError):
    """A loss or a gradient is infinite or not a number. The optimizer has not been stepped with it."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step gave: the mean loss of its target tokens, and the gradients' norm before clipping.

    The norm is None for a step without one of the optimizer: a float16 scaler skipped it, or it only adds its
    gradients to the next one's.
    """

    loss: float
    gradient_norm: float | None


class Engine(Protocol):
    """What trains. Every process of a run has one, and all call the same methods in the same order."""

    def step(self, batch: Batch, *, step: int, rate: float, dataset: str) -> StepResult:
        """One optimizer step on this process's part of the batch. Raises NotFiniteError."""
        ...

    def mean_loss(self, batches: Sequence[Batch]) -> float | None:
        """The mean loss of all target tokens of all processes' batches, in eval mode; None without any."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that must be restored to go on to the same bits. Parameters are named `parameter/NAME`."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        ...


class DDPEngine:
    """torch's DistributedDataParallel over the processes of the default group; one process needs no group.

    Args:
        model: gives (sum of losses, number of targets) for a batch; moved to the device.
    """

    def __init__(self, model: nn.Module, stage: Stage, options: RunOptions, *, rank: int, world_size: int):
        self._stage, self._options, self._rank, self._world_size = stage, options, rank, world_size
        self._device = torch.device(options.device)
        self._model = model.to(self._device).train()
        prepack(self._model)
        self._parameters = trainable_parameters(model)
        self._wrapped = _distributed(self._model, self._device) if world_size > 1 else self._model
        groups = parameter_groups(model, stage.weight_decay)
        self._optimizer = AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=stage.precision == "float16")

    def step(self, batch: Batch, *, step: int, rate: float, dataset: str) -> StepResult:
        """One AdamW step at `rate` on this process's part of the batch of `step`.

        Random numbers (dropout) are seeded by (seed, step, rank) here, so that none need be saved.

        Where the stage names the published accumulation, the optimizer is only stepped when its turn has come.

        Raises:
            NotFiniteError: the loss or a gradient is not finite; on every process, before the optimizer.
        """
        torch.manual_seed(_seed(self._stage.seed, step, self._rank))
        where = f"step {step + 1} of {self._stage.name}, on {dataset}"
        loss = self._backward(batch.to(self._device), where)
        if not self._is_due(step):
            return StepResult(loss=loss, gradient_norm=None)
        self._scaler.unscale_(self._optimizer)
        gradient_norm = self._checked_norm(where)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return StepResult(loss=loss, gradient_norm=gradient_norm)

    def _is_due(self, step: int) -> bool:
        """Whether the optimizer is stepped. As in the reference, what an epoch leaves over leaks into the next."""
        schedule = self._stage.schedule
        in_epoch = step % (schedule.published_epoch_steps or schedule.steps)
        return (in_epoch + 1) % self._stage.published_accumulation == 0

    def _backward(self, batch: Batch, where: str) -> float:
        """The mean loss over all processes, its gradients left in the parameters."""
        num_targets = max(int(self._sum((batch.labels_BT != IGNORED).sum())), 1)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._device)
        parts = micro_batches(batch, self._options.micro_batch)
        for number, part in enumerate(parts, start=1):
            self._synchronize(number == len(parts))
            with self._autocast():
                part_sum, _ = self._wrapped(part, packed=self._options.packed)
            # DDP takes the mean over the processes, and the sum is wanted.
            self._scaler.scale(part_sum * (self._world_size / num_targets)).backward()
            loss_sum += part_sum.detach()
        loss = float(self._sum(loss_sum.clone())) / num_targets
        if not _is_finite(loss):
            layer = None if _is_finite(float(loss_sum)) else self._first_not_finite(parts)
            keys = f"; here the first layer to give such a number is {layer}, with the samples {', '.join(batch.keys)}"
            raise NotFiniteError(f"the loss is {loss} at {where}{keys if layer else ''}. Nothing was stepped with it.")
        return loss

    def _first_not_finite(self, parts: Sequence[Batch]) -> str | None:
        with self._autocast():
            return first_not_finite(self._model, parts, packed=self._options.packed)

    def _synchronize(self, last: bool) -> None:
        """Let the gradients travel with the last micro-batch alone."""
        if isinstance(self._wrapped, DistributedDataParallel):
            self._wrapped.require_backward_grad_sync = last

    def _checked_norm(self, where: str) -> float | None:
        """The norm of all gradients, which are clipped to the stage's; None where the scaler will skip the step."""
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        norm = get_total_norm(gradients.values())
        if _is_finite(float(norm)):
            if self._stage.clip_norm is not None:
                clip_grads_with_norm_(self._parameters.values(), self._stage.clip_norm, norm)
            return float(norm)
        if self._scaler.is_enabled() and self._scaler.get_scale() > SMALLEST_SCALE:
            return None
        bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        raise NotFiniteError(
            f"the gradients of {len(bad)} of {len(gradients)} tensors are not finite at {where}: "
            f"{', '.join(bad[:LISTED_NAMES])}. Nothing was stepped with them."
        )

    def mean_loss(self, batches: Sequence[Batch]) -> float | None:
        """The mean loss of all target tokens of all processes' batches, in eval mode; None without any."""
        totals = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._model.eval()
        with torch.no_grad(), self._autocast():
            for batch in batches:
                for part in micro_batches(batch.to(self._device), self._options.micro_batch):
                    totals += torch.stack([value.double() for value in self._model(part, packed=self._options.packed)])
        self._model.train()
        loss_sum, num_targets = self._sum(totals).tolist()
        return loss_sum / num_targets if num_targets else None

    def state(self) -> dict[str, Tensor]:
        """Parameters, AdamW's moments and gradients not yet stepped with by name, and the scaler's two numbers."""
        tensors = {f"parameter/{name}": parameter.detach() for name, parameter in self._parameters.items()}
        if self._stage.published_accumulation > 1:
            tensors |= {f"gradient/{name}": p.grad for name, p in self._parameters.items() if p.grad is not None}
        for name, parameter in self._parameters.items():
            for kind, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{kind}/{name}"] = value
        if self._scaler.is_enabled():
            told = self._scaler.state_dict()
            tensors["scaler"] = torch.tensor([told["scale"], told["_growth_tracker"]], dtype=torch.float64)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            ValueError: it is the state of other parameters.
        """
        names = {name.removeprefix("parameter/") for name in tensors if name.startswith("parameter/")}
        if names != self._parameters.keys():
            raise ValueError(f"the state has other parameters: {sorted(names ^ set(self._parameters))[:LISTED_NAMES]}")
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
            if f"gradient/{name}" in tensors:
                parameter.grad = tensors[f"gradient/{name}"].to(parameter.device, copy=True)
            if f"step/{name}" in tensors:  # a parameter that no batch has used yet has no moments
                moments = {kind: tensors[f"{kind}/{name}"].to(parameter.device) for kind in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[parameter] = {"step": tensors[f"step/{name}"].clone(), **moments}
        if self._scaler.is_enabled():
            scale, growth = tensors["scaler"].tolist()
            self._scaler.load_state_dict({**self._scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self._stage.precision]
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32)

    def _sum(self, value: Tensor) -> Tensor:
        """The sum of `value` (changed in place) over all processes."""
        if self._world_size > 1:
            distributed.all_reduce(value)
        return value


def _distributed(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    return DistributedDataParallel(
        model,
        device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None,
        # Every process has read the same files.
        init_sync=False,
        broadcast_buffers=False,
        # A batch of text alone leaves the projections unused. It also keeps torch from regrouping the gradients
        # after the first step, which would sum them in another order after a resume.
        find_unused_parameters=True,
    )


def _seed(*of: int) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(of).encode()).digest()[:7])


def _is_finite(value: float) -> bool:
    return value - value == 0


def micro_batches(batch: Batch, most: int | None) -> list[Batch]:
    """`batch` in parts of at most `most` samples; None leaves it whole."""
    if most is None or len(batch.keys) <= most:
        return [batch]
    parts = [slice(start, start + most) for start in range(0, len(batch.keys), most)]
    return [
        replace(batch, **{name: value[part] for name, value in vars(batch).items() if value is not None})
        for part in parts
    ]


def first_not_finite(model: nn.Module, batches: Sequence[Batch], *, packed: bool) -> str | None:
    """The name of the first layer whose output is not finite for these batches; None when all are finite."""
    found: list[str] = []

    def look(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            found.append(name)

    layers = [(name, layer) for name, layer in model.named_modules() if not any(layer.children())]
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
        for name, layer in layers
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch, packed=packed)
    for hook in hooks:
        hook.remove()
    return found[0] if found else None
