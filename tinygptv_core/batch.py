"""What the loader gives and the model takes."""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tinygptv_core.packing import Packing

# Shape letters of this file: B batch, T text positions (one of them the image's placeholder), H = W side in pixels,
# S positions with the picture in place, K targets.

DataclassT = TypeVar("DataclassT")

IGNORED = -100
"""The label of a position that is no target."""


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """What a batch's labels and mask say: how much is computed, and where the targets are (`layout.with_layout`).

    Their number decides shapes, so that whoever asks a GPU for it waits for all that the GPU has still to do.

    Attributes:
        row_K, position_K: the positions that predict a target, among S of each sample, row by row.
        labels_K: what they predict.
        length: how many of the S positions of a padded batch are computed: all up to the last that predicts a target,
            and all of a sample that has none.
        is_full: whether each of those is attended to: there is neither padding nor a hole.
        packing: which tokens stand in the packed row; None for a padded batch.
        place_K: where in the packed row the positions are that predict a target; None for a padded batch.
    """

    row_K: Tensor
    position_K: Tensor
    labels_K: Tensor
    length: int
    is_full: bool
    packing: Packing | None
    place_K: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one data set, tokenized and padded.

    Attributes:
        images_B3HW: pictures as bytes (uint8, `image.squashed`), or normalised ones in float32; None for text alone,
            and where `queries_BQE` are there.
        ids_BT: token ids; at the slot stands a placeholder, at padding the pad id. int64.
        labels_BT: the target at each position (not shifted), `IGNORED` where there is none. int64.
        mask_BT: True where there is a token to be attended to (the placeholder is one), False at padding and at
            what no position attends to.
        slot_B: where the placeholder stands, 0 <= slot < T; None for text alone. int64. Text alone among pictures has
            one behind its last token, for a black picture (or queries of 0) that no target sees.
        keys: the samples' keys, in order.
        queries_BQE: what tower and Q-Former make of the pictures, where that is kept (`features.py`).
        layout: where it is known before.
    """

    images_B3HW: Tensor | None
    ids_BT: Tensor
    labels_BT: Tensor
    mask_BT: Tensor
    slot_B: Tensor | None
    keys: tuple[str, ...]
    queries_BQE: Tensor | None = None
    layout: BatchLayout | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`; the host does not wait for what is copied from pinned memory."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU can read by itself. A DataLoader asks for it by this name."""
        return map_tensors(self, Tensor.pin_memory)


def map_tensors(item: DataclassT, change: Callable[[Tensor], Tensor]) -> DataclassT:
    """A dataclass with each of its tensors changed, and those of the dataclasses in it."""
    new: dict[str, Any] = {}
    for name, value in vars(item).items():
        if isinstance(value, Tensor):
            new[name] = change(value)
        elif is_dataclass(value):
            new[name] = map_tensors(value, change)
    return replace(item, **new)  # pyright: ignore[reportArgumentType] -- a dataclass, as said
