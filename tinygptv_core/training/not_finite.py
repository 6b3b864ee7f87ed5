"""Where a number that is not finite came from: a step is computed again, layer by layer.

The paper's ablations end this way, so that the first layer to give such a number is what one wants to know.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tinygptv_core.batch import Batch
from tinygptv_core.engine import LISTED_NAMES
from tinygptv_core.trainable import trainable_parameters


class NotFiniteError(FloatingPointError):
    """A loss or a gradient is infinite or not a number. The optimizer has not been stepped with it."""


class HeldOutNotFiniteError(NotFiniteError):
    """It is the loss on held-out samples, of the weights as they are."""


@dataclass(frozen=True, kw_only=True)
class Repeatable:
    """What a process needs to compute its losses of a step again, to the same bits while its weights stay.

    Attributes:
        parts: the micro-batches, on the device.
        seed: of the step's random numbers.
        weight: what a sum of losses was multiplied by, a float16 scaler's scale included.
    """

    parts: Sequence[Batch]
    seed: int
    weight: Tensor


class Search(Protocol):
    """Computes a step again and looks for the first number that is not finite."""

    def __call__(self, model: nn.Module, again: Repeatable, *, packed: bool) -> str | None: ...


def first_not_finite(model: nn.Module, again: Repeatable, *, packed: bool) -> str | None:
    """The name of the first layer whose output is not finite in this step; None when all are finite."""
    found: list[str] = []

    def look(name: str, output: Tensor) -> None:
        if not output.isfinite().all():
            found.append(name)

    torch.manual_seed(again.seed)
    with torch.no_grad(), _each_output(model, look):
        for part in again.parts:
            model(part, packed=packed)
    return found[0] if found else None


def first_gradient_not_finite(model: nn.Module, again: Repeatable, *, packed: bool) -> str | None:
    """Where the first gradient that is not finite arises in this step: at a layer's output, or a trained tensor.

    None when all are finite. Gradients that the parameters have stay as they are.
    """
    found: list[str] = []
    parameters = {name: item for name, item in trainable_parameters(model).items() if item.requires_grad}

    def look(name: str, tensor: Tensor) -> RemovableHandle | None:
        def at(gradient: Tensor) -> None:
            if not gradient.isfinite().all():
                found.append(name)

        return tensor.register_hook(at) if tensor.requires_grad else None

    hooks = [look(name, parameter) for name, parameter in parameters.items()]
    torch.manual_seed(again.seed)
    with _each_output(model, lambda name, output: look(f"the output of {name}", output)):
        for part in again.parts:
            loss, _ = model(part, packed=packed)
            weighted = loss * again.weight.to(loss.dtype)
            torch.autograd.grad(weighted, list(parameters.values()), allow_unused=True)
    for hook in hooks:
        if hook is not None:
            hook.remove()
    return found[0] if found else None


@contextmanager
def _each_output(model: nn.Module, look: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Meanwhile `look` is given the name and the output of every innermost layer, as they are computed.

    What is compiled is computed as it was written: a compiled layer does not know of those in it.
    """

    def heard(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            look(name, output)

    layers = [(name, layer) for name, layer in model.named_modules() if not any(layer.children())]
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, name=name: heard(name, output))
        for name, layer in layers
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def with_samples(layer: str | None, again: Repeatable) -> str | None:
    """A layer that was found, and the samples that this process had in the step; None where none was."""
    keys = ", ".join(key for part in again.parts for key in part.keys)
    return None if layer is None else f"{layer}, with the samples {keys}"


def loss_error(loss: float, where: str, found: str | None) -> NotFiniteError:
    """The error for a mean loss that is not finite; `found` is the first layer that gave such a number, in words."""
    first = f"; the first layer to give such a number is {found}" if found else ""
    return NotFiniteError(f"the loss is {loss} at {where}{first}. Nothing was stepped with it.")


def held_out_error(loss: float, stage: str, layer: str | None) -> HeldOutNotFiniteError:
    """The error for a loss on held-out samples that is not finite; `layer` is the first that gave such a number."""
    first = f"; the first layer to give such a number is {layer}" if layer else ""
    return HeldOutNotFiniteError(f"the loss is {loss} at the held-out samples of {stage}{first}.")


def gradients_error(bad: Sequence[str], total: int, where: str, layer: str | None = None) -> NotFiniteError:
    """The error for the gradients of `bad` among `total` tensors, in the order in which they are computed.

    `layer` is where the first of them was met.
    """
    first = f"; the first came to {layer}" if layer else ""
    return NotFiniteError(
        f"the gradients of {len(bad)} of {total} tensors are not finite at {where}{first}; on the way back first: "
        f"{', '.join(bad[:LISTED_NAMES])}. Nothing was stepped with them."
    )
