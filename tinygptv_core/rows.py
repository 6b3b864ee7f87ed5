"""Some rows of a tensor, none of them twice.

torch's own indexing allows a row to be taken twice, so that its gradient has to be added up; to do that in a fixed
order a GPU sorts all indices first, which takes longer than everything else about it.
"""

from typing import Any

import torch
from torch import Tensor

# Shape letters of this file: N rows, K those that are taken.


def take_rows(of_N: Tensor, row_K: Tensor) -> Tensor:
    """The rows at `row_K` of a value for each row, (N, ...) -> (K, ...).

    Args:
        row_K: 0 <= row < N, in any order, all different: of rows that are equal only one would get its gradient.
    """
    return torch.as_tensor(_Taken.apply(of_N, row_K))


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of_N: Tensor, row_K: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(row_K)
        ctx.rows = len(of_N)
        return of_N.index_select(0, row_K)

    @staticmethod
    def backward(ctx: Any, gradient_K: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (row_K,) = ctx.saved_tensors
        gradient_N = gradient_K.new_zeros(ctx.rows, *gradient_K.shape[1:])
        return gradient_N.index_copy_(0, row_K, gradient_K), None
