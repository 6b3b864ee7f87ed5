"""Where in a batch something is computed, and where its targets are: asked of labels and mask where they lie."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from tinygptv_core.batch import IGNORED, Batch, BatchLayout
from tinygptv_core.packing import Packing, pack
from tinygptv_core.splice import splice_labels, splice_mask

# Shape letters of this file: B batch, S positions with the picture in place, K targets, P tokens of a packed batch.


def with_layout(batch: Batch, num_queries: int, *, packed: bool) -> Batch:
    """`batch` with its layout. On the CPU it costs no waiting: do it before the batch goes to another device.

    Args:
        batch: without a layout.
        num_queries: how many tokens a picture has.
        packed: for a batch without its padding, all samples in one row.

    Raises:
        ValueError: it is to be packed, and a target follows a position that is not attended to.
    """
    labels_BS, mask_BS = batch.labels_BT, batch.mask_BT
    if batch.slot_B is not None:
        labels_BS = splice_labels(labels_BS, batch.slot_B, num_queries)
        mask_BS = splice_mask(mask_BS, batch.slot_B, num_queries)
    next_BS = functional.pad(labels_BS[:, 1:], (0, 1), value=IGNORED)  # each position predicts the label after it
    predicts_BS = next_BS != IGNORED
    row_K, position_K = predicts_BS.nonzero(as_tuple=True)
    is_read_BS = _is_read(predicts_BS)
    length = int(is_read_BS.sum(dim=1).max())
    packing = pack(mask_BS & is_read_BS) if packed else None
    layout = BatchLayout(
        row_K=row_K,
        position_K=position_K,
        labels_K=next_BS[row_K, position_K],
        length=length,
        is_full=bool(mask_BS[:, :length].all()),
        packing=packing,
        place_K=None if packing is None else _places(packing, predicts_BS, mask_BS),
    )
    return replace(batch, layout=layout)


def _is_read(predicts_BS: Tensor) -> Tensor:
    """is_read_BS: up to the last position of a sample that predicts a target; what stands behind it nothing reads.

    A sample that has no target is left as it is.
    """
    follows_BS = predicts_BS.flip(1).cumsum(1).flip(1) > 0
    return follows_BS | ~predicts_BS.any(dim=1, keepdim=True)


def _places(packing: Packing, predicts_BS: Tensor, mask_BS: Tensor) -> Tensor:
    if bool((predicts_BS & ~mask_BS).any()):
        raise ValueError("a target follows a position that is not attended to; such a batch cannot be packed")
    return torch.as_tensor(packing.take(predicts_BS).nonzero()[:, 0])
