"""One optimizer step over all processes, exactly the step that one process would do with the whole batch.

The loss is the sum over every target token of the batch divided by their number, whichever process or
micro-batch they are in. Nothing is stepped with a number that is not finite.

On a GPU the host only says what is to be done, and never waits for what a step gives before it has said what the
next one is: a step that must not be taken is skipped by the GPU itself, and the host hears of it one step later.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import AdamW

from tinygptv_core.batch import Batch, map_tensors
from tinygptv_core.engine import (
    BETAS,
    EPSILON,
    SMALLEST_SCALE,
    StepResult,
    check_parameters,
    is_due,
    load_scaler,
    micro_batches,
    scaler_tensor,
)
from tinygptv_core.model import TinyGPTV
from tinygptv_core.precision import autocast
from tinygptv_core.prepack import prepack
from tinygptv_core.run import RunOptions
from tinygptv_core.seeds import seed_of
from tinygptv_core.stage import Stage
from tinygptv_core.trainable import parameter_groups, trainable_parameters
from tinygptv_core.training.clock import Clock
from tinygptv_core.training.not_finite import (
    Repeatable,
    Search,
    first_gradient_not_finite,
    first_not_finite,
    gradients_error,
    held_out_error,
    loss_error,
    with_samples,
)
from tinygptv_core.training.processes import first_told


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """What the host has to look at of one step.

    Attributes:
        told_M: the loss, this process's own sum of losses, whether a scaler may skip the step, the gradients' norm, and
            that of each tensor's; on the host, once `event` has come.
        names: of the tensors that have gradients.
        again: what the step was about.
        where: which step it was, in words.
    """

    told_M: Tensor
    event: torch.cuda.Event | None
    names: tuple[str, ...]
    again: Repeatable
    where: str


class DDPEngine:
    """torch's DistributedDataParallel over the processes of the default group; one process needs no group.

    Args:
        model: moved to the device.
    """

    def __init__(self, model: TinyGPTV, stage: Stage, options: RunOptions, *, rank: int, world_size: int):
        self._stage, self._options, self._rank, self._world_size = stage, options, rank, world_size
        self._device = torch.device(options.device)
        self._is_cuda = self._device.type == "cuda"
        self._model = model.to(self._device).train()
        # The compiler brings weights into order itself.
        for frozen in (model.vision, model.qformer) if options.compile else (model,):
            prepack(frozen)
        self._parameters = trainable_parameters(model)
        self._wrapped = _distributed(self._model, self._device) if world_size > 1 else self._model
        groups = parameter_groups(model, stage.weight_decay)
        # Where nobody has to be waited for it is left as it is: the fused one has other last bits.
        self._optimizer = AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=self._steps_unseen > 0)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=stage.precision == "float16")
        self._clock = Clock(self._device)
        self._copying = torch.cuda.Stream() if self._is_cuda else None
        self._unseen: deque[_Numbers] = deque()

    @property
    def _steps_unseen(self) -> int:
        """How many steps the host may not have looked at when it has one more taken."""
        return 1 if self._is_cuda else 0

    def step(self, batch: Batch, *, step: int, rate: float, dataset: str) -> StepResult:
        """One AdamW step at `rate` on this process's part of the batch of `step`.

        Random numbers (dropout) are seeded by (seed, step, rank) here, so that none need be saved.

        Where the stage names the published accumulation, the optimizer is only stepped when its turn has come.

        Raises:
            NotFiniteError: the loss or a gradient is not finite; on every process, before the optimizer. On a GPU it is
                raised by the next step, or by `state`, and the optimizer has been stepped with neither.
        """
        seed = seed_of(self._stage.seed, step, self._rank)
        torch.manual_seed(seed)
        self._clock.mark("forward")
        parts = self._parts(batch)
        own_sum, loss, weight = self._backward(parts)
        self._clock.mark("optimizer")
        due = is_due(self._stage, step)
        if due:
            self._scaler.unscale_(self._optimizer)
        names, norms_N = self._norms()
        norm = torch.linalg.vector_norm(norms_N)
        told = (torch.stack([loss, own_sum, self._may_skip().double()]), norm[None], norms_N)
        where = f"step {step + 1} of {self._stage.name}, on {dataset}"
        again = Repeatable(parts=parts, seed=seed, weight=weight)
        self._unseen.append(self._on_the_way(told, names, again, where))
        self._look(self._steps_unseen)
        if due:
            self._optimize(rate, norm, loss.isfinite() & norm.isfinite())
        self._clock.mark(None)
        return StepResult(loss=loss, gradient_norm=norm if due else None)

    def seconds(self) -> dict[str, float]:
        """Of each of `clock.PARTS` since this was last asked, summed over the steps. Waits for the device.

        Communication is what is waited for: on the way back gradients travel while others are computed.
        """
        return self._clock.read()

    def _parts(self, batch: Batch) -> list[Batch]:
        """The micro-batches on the device. To a GPU they travel while it still computes the step before."""
        packed, most = self._options.packed, self._options.micro_batch
        parts = [self._model.with_layout(part, packed=packed) for part in micro_batches(batch, most)]
        if self._copying is None:
            return [part.to(self._device) for part in parts]
        with torch.cuda.stream(self._copying):
            parts = [part.pin_memory().to(self._device) for part in parts]
        stream = torch.cuda.current_stream()
        stream.wait_stream(self._copying)

        def used_there(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        return [map_tensors(part, used_there) for part in parts]

    def _backward(self, parts: Sequence[Batch]) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of this process's losses, and the mean over all processes, its gradients left in the parameters.

        And what this process's losses were weighted by for that.
        """
        targets = sum(len(part.layout.labels_K) for part in parts if part.layout is not None)
        num_targets = self._sum(self._number(targets)).clamp(min=1)
        # DDP takes the mean over the processes, and the sum is wanted.
        weight = self._number(self._world_size) / num_targets
        loss_sum = self._number(0)
        for number, part in enumerate(parts, start=1):
            self._synchronize(number == len(parts))
            self._clock.mark("forward")
            with self._autocast():
                part_sum, _ = self._wrapped(part, packed=self._options.packed)
            self._clock.mark("backward")
            weighted = self._scaler.scale(part_sum * weight.to(part_sum.dtype))
            if self._world_size > 1 and number == len(parts):
                weighted.register_hook(self._mark_when_computed)
            weighted.backward()
            loss_sum += part_sum.detach()
        return loss_sum, self._sum(loss_sum.clone()) / num_targets, self._scaler.scale(weight)

    def _mark_when_computed(self, _gradient: Tensor) -> None:
        """Let the clock know when the last gradient is there. DDP waits for the other processes just after that."""
        Variable._execution_engine.queue_callback(lambda: self._clock.mark("communication"))

    def _synchronize(self, last: bool) -> None:
        """Let the gradients travel with the last micro-batch alone."""
        if isinstance(self._wrapped, DistributedDataParallel):
            self._wrapped.require_backward_grad_sync = last

    def _norms(self) -> tuple[tuple[str, ...], Tensor]:
        """What has a gradient, and the norm of each."""
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        norms = torch._foreach_norm([*gradients.values()])  # pyright: ignore[reportPrivateImportUsage]
        return tuple(gradients), torch.stack(norms)

    def _may_skip(self) -> Tensor:
        """Whether gradients that are not finite are the scaler's affair, as long as there is a smaller scale."""
        return self._scaler.scale(torch.ones((), device=self._device)) > SMALLEST_SCALE

    def _on_the_way(self, told: Sequence[Tensor], names: tuple[str, ...], again: Repeatable, where: str) -> _Numbers:
        """What the host will look at, on its way there."""
        told_M = torch.cat([numbers.double() for numbers in told]).to("cpu", non_blocking=True)
        event = torch.cuda.Event() if self._is_cuda else None
        if event is not None:
            event.record()
        return _Numbers(told_M=told_M, event=event, names=names, again=again, where=where)

    def _look(self, most_unseen: int) -> None:
        """Look at all steps but the last `most_unseen`."""
        while len(self._unseen) > most_unseen:
            seen = self._unseen.popleft()
            if seen.event is not None:
                seen.event.synchronize()
            self._require_finite(seen)

    def _require_finite(self, seen: _Numbers) -> None:
        """Raises NotFiniteError, which names in every process what the first that found something has found."""
        loss, own_sum, may_skip, norm, *norms = seen.told_M.tolist()
        if not isfinite(loss):
            layer = None if isfinite(own_sum) else self._search(first_not_finite, seen.again)
            raise loss_error(loss, seen.where, first_told(with_samples(layer, seen.again), self._world_size))
        if isfinite(norm) or may_skip:
            return
        bad = [name for name, norm in zip(seen.names, norms, strict=True) if not isfinite(norm)]
        layer = first_told(self._search(first_gradient_not_finite, seen.again), self._world_size)
        raise gradients_error(self._on_the_way_back(bad), len(seen.names), seen.where, layer)

    def _on_the_way_back(self, names: Sequence[str]) -> list[str]:
        """Parameters in about the order in which their gradients come: modules are listed as they are passed."""
        places = {id(parameter): place for place, parameter in enumerate(self._model.parameters())}
        return sorted(names, key=lambda name: places[id(self._parameters[name])], reverse=True)

    def _search(self, search: Search, again: Repeatable) -> str | None:
        with self._autocast():
            return search(self._model, again, packed=self._options.packed)

    def _optimize(self, rate: float, norm: Tensor, is_finite: Tensor) -> None:
        """Step with the clipped gradients, if they are finite, and forget them."""
        if self._stage.clip_norm is not None:
            clip_grads_with_norm_(self._parameters.values(), self._stage.clip_norm, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self._steps_unseen:  # the fused optimizer skips by itself, as it does for a scaler
            self._optimizer.found_inf = (~is_finite).float()  # pyright: ignore[reportAttributeAccessIssue]
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()

    def mean_loss(self, batches: Sequence[Batch]) -> float | None:
        """The mean loss of all target tokens of all processes' batches, in eval mode; None without any.

        Raises:
            NotFiniteError: it is not finite; on every process.
        """
        self._look(0)
        totals = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._model.eval()
        with torch.no_grad(), self._autocast():
            for part in self._parts_of(batches):
                totals += torch.stack([value.double() for value in self._model(part, packed=self._options.packed)])
        loss_sum, num_targets = self._sum(totals).tolist()
        self._clock.mark(None)
        if not isfinite(loss_sum):
            again = Repeatable(parts=[*self._parts_of(batches)], seed=self._stage.seed, weight=self._number(1))
            layer = first_told(self._search(first_not_finite, again), self._world_size)
            raise held_out_error(loss_sum, self._stage.name, layer)
        self._model.train()
        return loss_sum / num_targets if num_targets else None

    def _parts_of(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        return (part for batch in batches for part in self._parts(batch))

    def state(self) -> dict[str, Tensor]:
        """Parameters, AdamW's moments and gradients not yet stepped with by name, and the scaler's two numbers.

        Raises:
            NotFiniteError: as `step` does.
        """
        self._look(0)
        tensors = {f"parameter/{name}": parameter.detach() for name, parameter in self._parameters.items()}
        if self._stage.published_accumulation > 1:
            tensors |= {f"gradient/{name}": p.grad for name, p in self._parameters.items() if p.grad is not None}
        for name, parameter in self._parameters.items():
            for kind, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{kind}/{name}"] = value
        if self._scaler.is_enabled():
            tensors["scaler"] = scaler_tensor(self._scaler)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            ValueError: it is the state of other parameters.
        """
        check_parameters(tensors, self._parameters)
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
            if f"gradient/{name}" in tensors:
                parameter.grad = tensors[f"gradient/{name}"].to(parameter.device, copy=True)
            if f"step/{name}" in tensors:  # a parameter that no batch has used yet has no moments
                moments = {kind: tensors[f"{kind}/{name}"].to(parameter.device) for kind in ("exp_avg", "exp_avg_sq")}
                # The fused optimizer counts on the device.
                taken = tensors[f"step/{name}"].to(parameter.device if self._steps_unseen else "cpu", copy=True)
                self._optimizer.state[parameter] = {"step": taken, **moments}
        if self._scaler.is_enabled():
            load_scaler(self._scaler, tensors["scaler"])

    def _autocast(self) -> torch.autocast:
        return autocast(self._stage.precision, self._device)

    def _number(self, value: float) -> Tensor:
        """It on the device: filled there, for the host would wait for a copy."""
        return torch.full((), value, dtype=torch.float64, device=self._device)

    def _sum(self, value: Tensor) -> Tensor:
        """The sum of `value` (changed in place) over all processes. What the clock says is then to be said anew."""
        if self._world_size > 1:
            self._clock.mark("communication")
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
