"""DeepSpeed's ZeRO as an engine: what DDP keeps whole in every process is divided among them.

torchrun --nproc-per-node 2 -m tasks.zero RUN.json

ZeRO 1 divides the optimizer's moments, ZeRO 2 the gradients too, ZeRO 3 all weights, the frozen ones among them. The
numbers are those of DDP but for the order in which they are summed, and so are state and checkpoint.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import inf, isfinite
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.optim import AdamW

from tasks.training.zero_batches import Shared, share
from tasks.training.zero_pieces import Pieces
from tinygptv_core.batch import Batch
from tinygptv_core.compute import Progress
from tinygptv_core.engine import (
    BETAS,
    EPSILON,
    SMALLEST_SCALE,
    StepResult,
    is_due,
    load_scaler,
    scaler_tensor,
    step_scaler,
)
from tinygptv_core.model import TinyGPTV, unseen
from tinygptv_core.plain import ConfigError
from tinygptv_core.precision import autocast
from tinygptv_core.prepack import prepack
from tinygptv_core.run import RunOptions, RunSpec
from tinygptv_core.seeds import seed_of
from tinygptv_core.stage import Stage
from tinygptv_core.train import main
from tinygptv_core.train import train as train_with
from tinygptv_core.trainable import parameter_groups, trainable_parameters
from tinygptv_core.training.clock import Clock
from tinygptv_core.training.not_finite import (
    NotFiniteError,
    Repeatable,
    first_gradient_not_finite,
    first_not_finite,
    gradients_error,
    held_out_error,
    loss_error,
    with_samples,
)
from tinygptv_core.training.processes import first_told
from tinygptv_core.training.saving import AskedToStop, never

LEVELS = {"zero1": 1, "zero2": 2, "zero3": 3}
USED = "is_used"
"""In an optimizer's group: whether the batch has given it gradients."""


def train(spec: RunSpec, rank: int, world_size: int, report: Progress, asked_to_stop: AskedToStop = never) -> None:
    """As the core's `train`, with the engine that `spec.options` names.

    Raises:
        StoppedError, ConfigError, NotFiniteError: as the core's; or DeepSpeed is asked for and not installed.
    """
    if spec.options.engine == "ddp":
        train_with(spec, rank, world_size, report, asked_to_stop)
        return
    with ExitStack() as stack:

        def new_engine(
            model: TinyGPTV, stage: Stage, options: RunOptions, *, rank: int, world_size: int
        ) -> "ZeroEngine":
            engine = ZeroEngine(model, stage, options, rank=rank, world_size=world_size)
            stack.callback(engine.close)
            return engine

        train_with(spec, rank, world_size, report, asked_to_stop, new_engine)


class ZeroEngine:
    """DeepSpeed's ZeRO 1, 2 or 3 over the processes of the default group; without one, over this process.

    DeepSpeed computes in float32; lower precisions are torch's autocast around it, as with DDP, and in float16 the loss
    scale is torch's. `close` it before another is made.

    Args:
        model: gives (sum of losses, number of targets) for a batch; moved to the device, and taken apart by ZeRO 3.
    """

    def __init__(self, model: TinyGPTV, stage: Stage, options: RunOptions, *, rank: int, world_size: int):
        self._stage, self._options, self._rank, self._world_size = stage, options, rank, world_size
        self._device, self._level = torch.device(options.device), LEVELS[options.engine]
        deepspeed = _deepspeed(self._device)
        _ensure_group(self._device)
        self._parameters = trainable_parameters(model)
        self._not_finite = torch.zeros(len(self._parameters), dtype=torch.bool, device=self._device)
        self._came: list[int] = []
        self._watch_gradients()
        self._model = model = model.to(self._device).train()
        if self._level < 3:
            for frozen in (model.vision, model.qformer) if options.compile else (model,):
                prepack(frozen)
        groups = _groups(model, stage.weight_decay)
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._groups = [[names[id(item)] for item in group["params"]] for group in groups]
        optimizer = AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON)
        optimizer.register_step_pre_hook(_leave_unused)
        self._engine, *_ = deepspeed.initialize(
            model=_Autocast(model, self._device, stage), optimizer=optimizer, config=self._config()
        )
        self._zero: Any = self._engine.optimizer
        self._pieces = Pieces(
            self._zero, self._parameters, self._groups, level=self._level, rank=rank, world_size=world_size
        )
        self._pieces.begin_moments()
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=stage.precision == "float16")
        self._clock = Clock(self._device)
        self._kept: dict[str, Tensor] = {}
        """Whole gradients that are yet to be stepped with (`Stage.published_accumulation`)."""

    def _config(self) -> dict[str, Any]:
        num_trained = sum(parameter.numel() for parameter in self._parameters.values())
        return {
            "train_batch_size": self._world_size,
            "train_micro_batch_size_per_gpu": 1,
            "steps_per_print": sys.maxsize,
            "gradient_clipping": self._stage.clip_norm or 0.0,
            "zero_optimization": {
                "stage": self._level,
                # The defaults are 2 GB each; ours is never larger than what is trained.
                "reduce_bucket_size": num_trained,
                "allgather_bucket_size": num_trained,
                "stage3_param_persistence_threshold": 0,
            },
        }

    def _watch_gradients(self) -> None:
        for place, parameter in enumerate(self._parameters.values()):
            parameter.register_hook(lambda gradient, place=place: self._look_at(gradient, place))

    def _look_at(self, gradient: Tensor, place: int) -> None:
        self._not_finite[place] |= ~gradient.isfinite().all()
        self._came.append(place)

    def step(self, batch: Batch, *, step: int, rate: float, dataset: str) -> StepResult:
        """One AdamW step at `rate`, as `DDPEngine.step`.

        Raises:
            NotFiniteError: the loss or a gradient is not finite; on every process, before the optimizer.
        """
        seed = seed_of(self._stage.seed, step, self._rank)
        torch.manual_seed(seed)
        where = f"step {step + 1} of {self._stage.name}, on {dataset}"
        self._not_finite.zero_()
        self._came.clear()
        self._clock.mark("communication")
        shared = self._shared(batch)
        # DeepSpeed takes the mean over the processes, and the sum is wanted.
        weight = self._world_size / max(shared.num_targets, 1)
        again = Repeatable(parts=shared.parts, seed=seed, weight=self._number(weight * self._scaler.get_scale()))
        loss = self._backward(shared, weight, again, where)
        self._clock.mark("optimizer")
        used = {name for name in self._parameters if shared.has_pictures or not _reads_pictures(name)}
        self._complete_gradients(used)
        used |= self._kept.keys()
        if not is_due(self._stage, step):
            self._require_finite(used, again, where)
            self._keep_gradients(used)
            norm = None
        else:
            self._kept = {}
            norm = self._number(self._optimizer_step(used, rate, again, where))
        self._clock.mark(None)
        return StepResult(loss=self._number(loss), gradient_norm=norm)

    def seconds(self) -> dict[str, float]:
        """Of each of `clock.PARTS` since this was last asked, summed over the steps. Waits for the device.

        Gradients, and ZeRO 3's weights, travel within the other parts; communication is what processes agree on.
        """
        return self._clock.read()

    def _shared(self, batch: Batch) -> Shared:
        """The parts of all processes on the device, with their layouts."""
        shared = share(batch, self._options.micro_batch, self._device)
        parts = [self._model.with_layout(part, packed=self._options.packed).to(self._device) for part in shared.parts]
        return replace(shared, parts=parts)

    def _backward(self, shared: Shared, weight: float, again: Repeatable, where: str) -> float:
        """The mean loss over all processes, its gradients left with DeepSpeed."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._device)
        self._zero.loss_scale = self._scaler.get_scale()
        for number, part in enumerate(shared.parts, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(shared.parts))
            self._clock.mark("forward")
            part_sum, _ = self._engine(part, packed=self._options.packed)
            self._clock.mark("backward")
            self._engine.backward(part_sum * weight, scale_wrt_gas=False)
            loss_sum += part_sum.detach()
        self._clock.mark("communication")
        loss = float(self._sum(loss_sum.clone())) / max(shared.num_targets, 1)
        if not isfinite(loss):
            layer = self._layer_not_finite(again)  # ZeRO 3 fetches weights from all, so all look
            layer = None if isfinite(float(loss_sum)) else layer
            raise loss_error(loss, where, first_told(with_samples(layer, again), self._world_size))
        return loss

    def _layer_not_finite(self, again: Repeatable) -> str | None:
        """The first layer whose output in this process is not finite."""
        layer = first_not_finite(self._engine.module, again, packed=self._options.packed)
        return None if layer is None else layer.removeprefix("model.")

    def _complete_gradients(self, used: set[str]) -> None:
        """Add what earlier steps have kept, and clear what ZeRO 3 still has of a group that this batch has not used."""
        for name in self._parameters:
            kept = self._kept.get(name)
            if name in used and kept is None:
                continue
            whole = self._pieces.zeros(name) if kept is None else kept
            self._pieces.set_gradient(name, whole + self._pieces.gradient(name) if name in used else whole)

    def _keep_gradients(self, used: set[str]) -> None:
        self._kept = {name: self._pieces.gradient(name).clone() for name in sorted(used)}
        self._zero.zero_grad()

    def _optimizer_step(self, used: set[str], rate: float, again: Repeatable, where: str) -> float:
        """Clip and step. The norm of all gradients; infinite where float16 overflowed, and nothing was stepped."""
        for group, names in zip(self._zero.param_groups, self._groups, strict=True):
            group["lr"], group[USED] = rate, not used.isdisjoint(names)
        self._engine.step()  # which leaves everything as it is if the norm is not finite
        if not self._zero.overflow:
            step_scaler(self._scaler, overflowed=False)
            return float(self._engine.get_global_grad_norm())
        if not self._may_skip():
            raise self._gradients_error(self._bad(), used, again, where)
        step_scaler(self._scaler, overflowed=True)
        return inf

    def _may_skip(self) -> bool:
        """Whether gradients that are not finite are the scaler's affair, as long as there is a smaller scale."""
        return self._scaler.is_enabled() and self._scaler.get_scale() > SMALLEST_SCALE

    def _require_finite(self, used: set[str], again: Repeatable, where: str) -> None:
        """Of gradients that are kept, which the optimizer would find in a later step."""
        if not self._may_skip() and (bad := self._bad()):
            raise self._gradients_error(bad, used, again, where)

    def _bad(self) -> list[str]:
        """Whose gradients of this step were not finite in some process, in the order in which they came here."""
        flags, names = self._sum(self._not_finite.int()).tolist(), list(self._parameters)
        return [names[place] for place in dict.fromkeys([*self._came, *range(len(names))]) if flags[place]]

    def _gradients_error(self, bad: Sequence[str], used: set[str], again: Repeatable, where: str) -> NotFiniteError:
        return gradients_error(bad, len(used), where, first_told(self._first_layer(again), self._world_size))

    def _first_layer(self, again: Repeatable) -> str | None:
        """Where this process's first gradient that is not finite came to; ZeRO 3 has no weights to look with."""
        if self._level == 3:
            return None
        with autocast(self._stage.precision, self._device):
            return first_gradient_not_finite(self._model, again, packed=self._options.packed)

    def mean_loss(self, batches: Sequence[Batch]) -> float | None:
        """The mean loss of all target tokens of all processes' batches, in eval mode; None without any.

        Raises:
            NotFiniteError: it is not finite; on every process.
        """
        totals = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._engine.eval()
        with torch.no_grad():
            for part in self._parts_of(batches):
                totals += torch.stack([value.double() for value in self._engine(part, packed=self._options.packed)])
        loss_sum, num_targets = self._sum(totals).tolist()
        if not isfinite(loss_sum):
            again = Repeatable(parts=[*self._parts_of(batches)], seed=self._stage.seed, weight=self._number(1))
            layer = first_told(self._layer_not_finite(again), self._world_size)
            raise held_out_error(loss_sum, self._stage.name, layer)
        self._engine.train()
        return loss_sum / num_targets if num_targets else None

    def _parts_of(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        return (part for batch in batches for part in self._shared(batch).parts)

    def state(self) -> dict[str, Tensor]:
        """As `DDPEngine.state`, put together from all processes, each of which must call it."""
        tensors = self._pieces.state()
        tensors |= {f"gradient/{name}": gradient for name, gradient in self._kept.items()}
        if self._scaler.is_enabled():
            tensors["scaler"] = scaler_tensor(self._scaler)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, of this engine or another.

        Raises:
            ValueError: it is the state of other parameters, or of some that have been stepped more often than others
                of their kind.
        """
        self._pieces.load(tensors)
        gradients = {name: tensors.get(f"gradient/{name}") for name in self._parameters}
        self._kept = {name: item.to(self._device) for name, item in gradients.items() if item is not None}
        if self._scaler.is_enabled():
            load_scaler(self._scaler, tensors["scaler"])

    def close(self) -> None:
        """Let go of the model, on which DeepSpeed keeps a hold otherwise."""
        self._engine.destroy()

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self._device)

    def _sum(self, value: Tensor) -> Tensor:
        """The sum of `value` (changed in place) over all processes."""
        distributed.all_reduce(value)
        return value


class _Autocast(nn.Module):
    """`model` under the stage's precision: DeepSpeed turns off an autocast that is around it."""

    def __init__(self, model: TinyGPTV, device: torch.device, stage: Stage) -> None:
        super().__init__()
        self.model, self._autocast = model, lambda: autocast(stage.precision, device)

    def forward(self, batch: Batch, *, packed: bool) -> tuple[Tensor, Tensor]:
        with self._autocast():
            return self.model(batch, packed=packed)


def _deepspeed(device: torch.device) -> Any:
    """The package, set to neither compile anything nor look for what it does not need.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    try:
        with unseen("mlflow"):  # five seconds, for a tuner that is not used
            import deepspeed
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        raise ConfigError(
            "the ZeRO engines are DeepSpeed's, which is not installed. To install it: pip install "
            "'tinygptv[pipeline]'. Or take --option engine=ddp: the numbers are the same."
        ) from error
    # Shared memory instead of gloo between processes of one machine: half a minute with a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of names that it calls
    return deepspeed


def _ensure_group(device: torch.device) -> None:
    if not distributed.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage] -- documented all the same
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def _reads_pictures(name: str) -> bool:
    """Whether a batch of text alone leaves the parameter of this name unused."""
    return name.startswith("projections.")


def _groups(model: TinyGPTV, weight_decay: float) -> list[dict[str, Any]]:
    """`parameter_groups`, and those apart that a batch of text alone leaves unused: ZeRO steps a group as a whole."""
    projections = {id(parameter) for parameter in model.projections.parameters()}
    parts = (
        {**group, "params": [item for item in group["params"] if (id(item) in projections) == is_apart], USED: True}
        for group in parameter_groups(model, weight_decay)
        for is_apart in (True, False)
    )
    return [part for part in parts if part["params"]]


def _leave_unused(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """AdamW passes over what has no gradient; ZeRO gives one of zeros, which would decay weights and moments."""
    for group in optimizer.param_groups:
        if not group[USED]:
            for parameter in group["params"]:
                parameter.grad = None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], train))
