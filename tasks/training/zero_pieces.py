"""What DeepSpeed's ZeRO keeps in pieces in all processes, read and written whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinygptv_core.engine import check_parameters

MOMENTS = ("exp_avg", "exp_avg_sq")


class Pieces:
    """Parameters, gradients and AdamW's moments, by the names of the parameters.

    Every process has one, and all call the same methods in the same order, but for `zeros`.

    Args:
        zero: DeepSpeed's optimizer.
        level: of ZeRO: 1, 2 or 3.
        groups: the names of the parameters in each group of the optimizer.
    """

    def __init__(
        self,
        zero: Any,
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[Sequence[str]],
        *,
        level: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._zero, self._parameters, self._groups = zero, parameters, groups
        self._level, self._rank, self._world_size = level, rank, world_size

    def begin_moments(self) -> None:
        """Moments of 0 at step 0. DeepSpeed would look for them once, after its first group has been stepped."""
        for flat in self._flats():
            zeros = {kind: torch.zeros_like(flat) for kind in MOMENTS}
            self._zero.state[flat] = {"step": torch.tensor(0.0), **zeros}
        if self._level < 3:
            self._zero._lazy_init_hp_params_optimizer_state()

    def gradient(self, name: str) -> Tensor:
        """The whole gradient."""
        from deepspeed.utils import safe_get_full_grad

        return torch.as_tensor(safe_get_full_grad(self._parameters[name]))

    def set_gradient(self, name: str, whole: Tensor) -> None:
        """Let the gradient be `whole`."""
        from deepspeed.utils import safe_get_local_grad, safe_set_full_grad, safe_set_local_grad

        parameter = self._parameters[name]
        if self._level < 3:
            safe_set_full_grad(parameter, whole)
            return
        size = safe_get_local_grad(parameter).numel()
        padded = functional.pad(whole.flatten(), (0, size * self._world_size - whole.numel()))
        safe_set_local_grad(parameter, padded.narrow(0, size * self._rank, size))

    def zeros(self, name: str) -> Tensor:
        """Zeros of the shape of the whole parameter, of which ZeRO 3 leaves nothing in its place."""
        parameter = self._parameters[name]
        return torch.zeros(getattr(parameter, "ds_shape", parameter.shape), device=parameter.device)

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments as `Engine.state` has them."""
        from deepspeed.utils import safe_get_full_optimizer_state

        with self._whole():
            tensors = {f"parameter/{name}": item.detach().clone() for name, item in self._parameters.items()}
        steps = self._of_each([self._zero.state[flat]["step"] for flat in self._flats()])
        for name, parameter in self._parameters.items():
            if steps[name] > 0:
                tensors[f"step/{name}"] = steps[name].clone()
                for kind in MOMENTS:
                    tensors[f"{kind}/{name}"] = torch.as_tensor(safe_get_full_optimizer_state(parameter, kind))
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `Engine.state` gave, of any engine.

        Raises:
            ValueError: it is the state of other parameters, or of some that have been stepped more often than others
                of their group.
        """
        check_parameters(tensors, self._parameters)
        steps = self._steps_in(tensors)
        for kind in MOMENTS:
            # By way of the parameters, which come last: what ZeRO makes of a whole one is the right piece of it.
            self._fill(tensors, kind)
            for flat in self._flats():
                self._zero.state[flat][kind].copy_(flat)
        self._fill(tensors, "parameter")
        for flat, step in zip(self._flats(), steps, strict=True):
            self._zero.state[flat]["step"].fill_(step)

    def _flats(self) -> list[Tensor]:
        """This process's piece of each group, in one row."""
        return (
            self._zero.single_partition_of_fp32_groups if self._level < 3 else self._zero.fp32_partitioned_groups_flat
        )

    def _of_each(self, told: Sequence[Tensor]) -> dict[str, Tensor]:
        """What is told of each group, of its parameters."""
        return {name: item for names, item in zip(self._groups, told, strict=True) for name in names}

    def _steps_in(self, tensors: Mapping[str, Tensor]) -> list[float]:
        """How often each group has been stepped."""
        found = [{float(tensors.get(f"step/{name}", torch.zeros(()))) for name in names} for names in self._groups]
        if any(len(steps) != 1 for steps in found):
            raise ValueError(f"the state has parameters of one kind that were stepped {found} times; with ZeRO all are")
        return [steps.pop() for steps in found]

    def _fill(self, tensors: Mapping[str, Tensor], kind: str) -> None:
        """Set the parameters to the tensors of this kind, zeros where there are none."""
        with self._whole(modifier_rank=0), torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors.get(f"{kind}/{name}", torch.zeros(())))
        self._zero.refresh_fp32_params()

    def _whole(self, modifier_rank: int | None = None) -> Any:
        """Meanwhile all parameters are whole; what `modifier_rank` makes of them is sent to all."""
        from deepspeed.runtime.zero import GatheredParameters

        return GatheredParameters(list(self._parameters.values()), modifier_rank=modifier_rank)
