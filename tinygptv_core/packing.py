"""A padded batch as one row without its padding, in which each sample attends to itself alone.

Everything but attention works on single tokens, so that it is computed for those that are there and no others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Shape letters of this file: B batch, S positions of the padded batch, P tokens of all samples one after another,
# N heads, H width of a head.

KERNEL_WIDTHS, WIDEST_OF_KERNEL, FIRST_WITH_KERNEL = 8, 256, (8, 0)
"""Flash attention of several samples at once: heads as wide as a multiple of 8, in 16 bits, on an A100 or later GPU."""
CAUSAL = (-1, 0)
"""How far to the left and to the right a position sees: all before it, none after it."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which tokens of a padded batch stand in the packed row.

    Attributes:
        source_P: their places in the flattened batch, 0 <= source < B * S, ascending.
        position_P: their positions in their own samples, 0 <= position < S.
        lengths: how many tokens each sample has, in order; their sum is P.
        starts: where in the row each of them begins, and P; int32. None where nothing computes several at once.
        longest: the most of `lengths`, which a compiler would take for constants if they were asked.
    """

    source_P: Tensor
    position_P: Tensor
    lengths: tuple[int, ...]
    starts: Tensor | None
    longest: int

    def on(self, device: torch.device) -> "Packing":
        """The same, as attention there takes it. Not to be asked within what is compiled."""
        has_kernel = device.type == "cuda" and torch.backends.cuda.is_flash_attention_available()
        is_new = has_kernel and torch.cuda.get_device_capability(device) >= FIRST_WITH_KERNEL
        return self if is_new else replace(self, starts=None)

    def take(self, of_BS: Tensor) -> Tensor:
        """The packed row of a value for each position, (B, S, ...) -> (P, ...)."""
        return of_BS.flatten(0, 1).index_select(0, self.source_P)


def pack(mask_BS: Tensor) -> Packing:
    """The packing of the positions that are attended to.

    A hole in a sample is left out like padding, since no other position attends to it; those after it keep
    their positions. The host waits for the device that the mask is on.
    """
    row_P, position_P = mask_BS.nonzero(as_tuple=True)
    lengths = tuple(mask_BS.sum(dim=1).tolist())
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=mask_BS.device)
    return Packing(
        source_P=row_P * mask_BS.shape[1] + position_P,
        position_P=position_P,
        lengths=lengths,
        starts=starts,
        longest=max(lengths, default=0),
    )


def attend_apart(
    query_1NPH: Tensor, key_1NPH: Tensor, value_1NPH: Tensor, packing: Packing, *, dropout: float, scaling: float
) -> Tensor:
    """attended_1PNH: causal attention within each sample of a packed row.

    Args:
        dropout: of the attention's weights, 0..1.
        scaling: what queries times keys are multiplied by.
    """
    parts = (query_1NPH, key_1NPH, value_1NPH)
    if packing.starts is not None and not dropout and _fits_kernel(query_1NPH):
        return _attend_at_once(parts, packing.starts, packing.longest, scaling)
    one_by_one: Any = _attend_one_by_one  # `disable` has no types
    return one_by_one(parts, packing.lengths, dropout, scaling)


def _fits_kernel(query_1NPH: Tensor) -> bool:
    width = query_1NPH.shape[-1]
    return query_1NPH.dtype.itemsize == 2 and width % KERNEL_WIDTHS == 0 and width <= WIDEST_OF_KERNEL


def _attend_at_once(parts: Iterable[Tensor], starts: Tensor, longest: int, scaling: float) -> Tensor:
    """All samples in one kernel."""
    from torch.nn.attention.varlen import varlen_attn  # takes a second, on CPUs for nothing

    query_PNH, key_PNH, value_PNH = (part[0].transpose(0, 1) for part in parts)
    attended_PNH = varlen_attn(
        query_PNH, key_PNH, value_PNH, starts, starts, longest, longest, scale=scaling, window_size=CAUSAL
    )
    return torch.as_tensor(attended_PNH)[None]


@torch.compiler.disable  # compiled, it would be so for every set of lengths
def _attend_one_by_one(parts: Iterable[Tensor], lengths: Sequence[int], dropout: float, scaling: float) -> Tensor:
    packed = (part.split(list(lengths), dim=2) for part in parts)
    attended = [
        functional.scaled_dot_product_attention(*sample, dropout_p=dropout, is_causal=True, scale=scaling)
        for sample in zip(*packed, strict=True)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2)
