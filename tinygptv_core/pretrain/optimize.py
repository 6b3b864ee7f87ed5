"""The one training loop of the backbones' pre-training."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tinygptv_core.pretrain.settings import Optimization

LOG_EVERY_STEPS = 100
CLIP_NORM = 1.0
BETAS = (0.9, 0.98)
MOMENTUM = 0.95
# The quintic whose iteration takes all singular values of a matrix near to 1, and how often it is applied.
QUINTIC = (3.4445, -4.7750, 2.0315)
QUINTIC_STEPS = 5
# An orthogonal matrix scaled by this root is as large a step as AdamW's typical one at the same rate.
LIKE_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for the matrices between hidden layers.

    On one thread these small models leave their plateaus in half of the steps that AdamW needs. torch's own computes
    in bfloat16, which is slow on a CPU and differs between CPUs; this is float32.

    Source: K. Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of a step from
    J. Liu et al., 2025, arXiv:2502.16982.
    """

    def __init__(self, matrices: list[nn.Parameter], weight_decay: float) -> None:
        super().__init__(matrices, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step down the gradients that are there."""
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * LIKE_ADAMW * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors, and singular values between about 0.7 and 1.2."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    first, third, fifth = QUINTIC
    for _ in range(QUINTIC_STEPS):
        square = wide @ wide.T
        wide = first * wide + (third * square + fifth * square @ square) @ wide
    return wide.T if tall else wide


def optimize(
    model: nn.Module,
    loss_of_next_batch: Callable[[], Tensor],
    optimization: Optimization,
    log: Callable[[str], None],
) -> None:
    """Take `optimization.steps` steps down the loss with all parameters of `model`; a line is logged every hundred."""
    optimizers = optimizers_of(model, optimization.weight_decay)
    total = 0.0
    for step in range(optimization.steps):
        loss = loss_of_next_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(optimization, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if (step + 1) % LOG_EVERY_STEPS == 0:
            log(f"step {step + 1} of {optimization.steps}: loss {total / LOG_EVERY_STEPS:.4f}")
            total = 0.0


def optimizers_of(model: nn.Module, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of layers (modules in a list), AdamW for all else: embeddings, heads, norms, biases."""
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and LAYERS.search(name)]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in hidden)]
    return [Muon(hidden, weight_decay), torch.optim.AdamW(others, lr=0.0, betas=BETAS, weight_decay=0.0)]


LAYERS = re.compile(r"\.layers?\.\d+\.")


def rate(optimization: Optimization, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    warmup = min(1.0, (step + 1) / max(1, optimization.warmup_steps))
    return optimization.peak * warmup * 0.5 * (1 + math.cos(math.pi * step / optimization.steps))
