"""A padded batch as one row without its padding, in which each sample attends to itself alone.

Everything but attention works on single tokens, so that it is computed for those that are there and no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Shape letters of this file: B batch, S positions of the padded batch, P tokens of all samples one after another,
# N heads, H width of a head.


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which tokens of a padded batch stand in the packed row.

    Attributes:
        source_P: their places in the flattened batch, 0 <= source < B * S, ascending.
        position_P: their positions in their own samples, 0 <= position < S.
        lengths: how many tokens each sample has, in order; their sum is P.
    """

    source_P: Tensor
    position_P: Tensor
    lengths: tuple[int, ...]

    def take(self, of_BS: Tensor) -> Tensor:
        """The packed row of a value for each position, (B, S, ...) -> (P, ...)."""
        return of_BS.flatten(0, 1)[self.source_P]


def pack(mask_BS: Tensor) -> Packing:
    """The packing of the positions that are attended to.

    A hole in a sample is left out like padding, since no other position attends to it; those after it keep
    their positions. The host waits for the device that the mask is on.
    """
    row_P, position_P = mask_BS.nonzero(as_tuple=True)
    lengths = tuple(mask_BS.sum(dim=1).tolist())
    return Packing(source_P=row_P * mask_BS.shape[1] + position_P, position_P=position_P, lengths=lengths)


@torch.compiler.disable  # compiled, it would be so for every set of lengths
def attend_apart(
    query_1NPH: Tensor,
    key_1NPH: Tensor,
    value_1NPH: Tensor,
    lengths: Sequence[int],
    *,
    dropout: float,
    scaling: float,
) -> Tensor:
    """attended_1PNH: causal attention within each sample of a packed row, `lengths` long one after another.

    Args:
        dropout: of the attention's weights, 0..1.
        scaling: what queries times keys are multiplied by.
    """
    packed = (part.split(list(lengths), dim=2) for part in (query_1NPH, key_1NPH, value_1NPH))
    attended = [
        functional.scaled_dot_product_attention(*sample, dropout_p=dropout, is_causal=True, scale=scaling)
        for sample in zip(*packed, strict=True)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2)
