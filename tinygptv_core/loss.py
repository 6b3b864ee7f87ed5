"""Cross-entropy for a wide vocabulary: on the way back the gradient takes the place of the logits.

torch's own keeps the logarithms of all probabilities for it, in float32, and makes two more tables of that size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Shape letters of this file: K targets, V vocabulary.

NUMBERS_AT_ONCE = 1 << 22
"""Of logits. They are there twice in float32 meanwhile, which a processor's cache holds and no GPU notices."""


def summed_cross_entropy(logits_KV: Tensor, labels_K: Tensor) -> Tensor:
    """The cross-entropy summed over the targets, in nats, float32.

    Args:
        logits_KV: in float32 or 16 bits; from here on its memory belongs to the gradient, for which there is one way
            back.
        labels_K: 0 <= label < V.
    """
    return torch.as_tensor(_SummedCrossEntropy.apply(logits_KV, labels_K))


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_KV: Tensor, labels_K: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(logits_KV, labels_K)
        sums = [functional.cross_entropy(some.float(), of, reduction="sum") for some, of in _parts(logits_KV, labels_K)]
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits_KV, labels_K = ctx.saved_tensors
        for some_KV, of_K in _parts(logits_KV, labels_K):
            change_KV = some_KV.softmax(dim=1, dtype=torch.float32)
            change_KV[torch.arange(len(of_K), device=of_K.device), of_K] -= 1
            torch.mul(change_KV, gradient, out=some_KV)
        return logits_KV.detach(), None  # whoever keeps it keeps no more than that


def _parts(logits_KV: Tensor, labels_K: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Some rows at a time."""
    num_rows = max(1, NUMBERS_AT_ONCE // logits_KV.shape[1])
    return [*zip(logits_KV.split(num_rows), labels_K.split(num_rows), strict=True)]
