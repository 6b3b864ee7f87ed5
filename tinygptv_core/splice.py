"""Put a picture's tokens where the text has its placeholder: in embeddings, labels and mask alike."""

import torch
from torch import Tensor

from tinygptv_core.batch import IGNORED

# Shape letters of this file: B batch, T text positions, Q image queries, S = T - 1 + Q, D model width.


def splice_image(text_BTD: Tensor, image_BQD: Tensor, slot_B: Tensor) -> Tensor:
    """Replace the one placeholder of each sequence by that sample's Q image embeddings.

    Args:
        text_BTD: token embeddings, padded on either side.
        image_BQD: the projected queries of the sample's one picture, in the same dtype.
        slot_B: where the placeholder stands, 0 <= slot < T.

    Returns:
        merged_BSD. What stood before the slot keeps its position; what stood after moves by Q - 1.

    Raises:
        ValueError: the batches or widths differ.
        RuntimeError: a slot is out of range. Checked on the device, so the host does not wait.

    Source: TinyGPT-V, arXiv:2312.16862. The reference does this one sample at a time and tokenizes
    every prompt again for it.
    """
    (B, T, D), (images, Q, width) = text_BTD.shape, image_BQD.shape
    if (B, D) != (images, width):
        raise ValueError(f"text is (B={B}, T={T}, D={D}) but image is (B={images}, Q={Q}, D={width})")
    first_B = torch.arange(B, device=slot_B.device) * (T + Q)
    source_BS = _source(slot_B, T, Q) + first_B[:, None]
    both = torch.cat([text_BTD, image_BQD], dim=1)
    # Whole rows: of single numbers a GPU would sort all places on the way back, to add them up in a fixed order.
    return both.flatten(0, 1).index_select(0, source_BS.flatten()).view(B, -1, D)


def splice_labels(labels_BT: Tensor, slot_B: Tensor, num_queries: int) -> Tensor:
    """labels_BS: moved as `splice_image` moves the text; the picture is no target."""
    return _splice_constant(labels_BT, slot_B, num_queries, IGNORED)


def splice_mask(mask_BT: Tensor, slot_B: Tensor, num_queries: int) -> Tensor:
    """mask_BS: moved as `splice_image` moves the text; every token of the picture is attended."""
    return _splice_constant(mask_BT, slot_B, num_queries, True)


def _splice_constant(text_BT: Tensor, slot_B: Tensor, Q: int, value: int | bool) -> Tensor:
    B, T = text_BT.shape
    both = torch.cat([text_BT, text_BT.new_full((B, Q), value)], dim=1)
    return both.gather(1, _source(slot_B, T, Q))


def _source(slot_B: Tensor, T: int, Q: int) -> Tensor:
    """source_BS: which position of text (0..T-1) followed by image (T..T+Q-1) each merged position takes.

    A slot out of range has to be refused here: `gather` would cut the picture off in silence.
    """
    in_range = ((slot_B >= 0) & (slot_B < T)).all()
    torch._assert_async(in_range, f"a slot is not in 0..{T - 1}")  # pyright: ignore[reportPrivateImportUsage]
    position_S = torch.arange(T - 1 + Q, device=slot_B.device)
    offset_BS = position_S - slot_B[:, None]
    after_BS = position_S - (Q - 1) * (offset_BS >= Q)
    return torch.where((offset_BS >= 0) & (offset_BS < Q), T + offset_BS, after_BS)
