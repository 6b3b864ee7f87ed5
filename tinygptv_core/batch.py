"""What the loader gives and the model takes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Shape letters of this file: B batch, T text positions (one of them the image's placeholder), H = W side in pixels.

IGNORED = -100
"""The label of a position that is no target."""


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
    """

    images_B3HW: Tensor | None
    ids_BT: Tensor
    labels_BT: Tensor
    mask_BT: Tensor
    slot_B: Tensor | None
    keys: tuple[str, ...]
    queries_BQE: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)
