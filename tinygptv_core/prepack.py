"""Frozen Linears on the CPU, their weights also in the order in which its kernels read them.

A matrix product begins with bringing the weight into that order. What never changes can be brought there once: the
tower, the Q-Former and nearly all of the language model. torch's compiler does the same to a frozen graph
(`torch._inductor`, "freezing"), but needs a C++ compiler where it runs.
"""

from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from tinygptv_core.vision import VisionTower

# Shape letters of this file: I width of what comes in, O of what goes out.


class PrepackedLinear(nn.Linear):
    """A frozen Linear: the same function to rounding, for twice the memory, three times if gradients flow through it.

    It takes float32 alone, no autocast bears on it, and it can be neither copied nor quantized.

    Args:
        linear: in float32, on the CPU; its parameters are taken as they are, and must not change.
    """

    is_gelu = False
    """Whether the GELU of the result is given, from the same kernel. No gradient flows through that."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self._ahead = _packed(linear.weight.detach())

    @cached_property
    def _back(self) -> Tensor:
        """For the gradient's way back, which reads the transposed weight."""
        return _packed(self.weight.detach().t().contiguous())

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        if torch.is_grad_enabled() and input.requires_grad:
            assert not self.is_gelu
            return torch.as_tensor(_Product.apply(input, self))
        return self.product(input)

    def product(self, input: Tensor) -> Tensor:
        """The same, without a gradient."""
        if not input.numel():  # of nothing the kernel makes an error
            return nn.functional.linear(input, self.weight, self.bias)
        return _product(input, self._ahead, self.bias, "gelu" if self.is_gelu else "none")

    def product_back(self, gradient: Tensor) -> Tensor:
        """(..., O) -> (..., I): the gradient of what came in."""
        return _product(gradient, self._back, None, "none")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, linear: PrepackedLinear) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.linear = linear
        return linear.product(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.linear.product_back(gradient), None


def _packed(weight_OI: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI)


def _product(input: Tensor, packed: Tensor, bias: Tensor | None, then: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, packed, bias, then, [], "none" if then == "gelu" else "")


def prepack(model: nn.Module) -> None:
    """Prepack the frozen Linears of `model` if all of them are in float32 on a CPU; otherwise nothing changes.

    Its parameters keep their names and values. Call it when both are what they will be, and where a model computes for
    long: to bring the weights into order takes as long as to read them, and their memory once more.
    """
    modules = model.named_modules()
    linears = {name: one for name, one in modules if type(one) is nn.Linear and not one.weight.requires_grad}
    if not torch.backends.mkldnn.is_available() or not all(map(_is_fit, linears.values())):
        return
    for name, linear in linears.items():
        model.set_submodule(name, PrepackedLinear(linear))
    towers = (module for module in model.modules() if isinstance(module, VisionTower))
    for mlp in chain.from_iterable(tower.modules() for tower in towers):
        first = getattr(mlp, "fc1", None)
        if isinstance(first, PrepackedLinear) and type(mlp.activation_fn) is GELUActivation:
            first.is_gelu, mlp.activation_fn = True, nn.Identity()


def _is_fit(linear: nn.Linear) -> bool:
    return linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32
