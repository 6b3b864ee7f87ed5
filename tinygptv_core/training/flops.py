"""The floating-point operations that a training step needs, whatever way it is computed.

Counted are products of matrices, two operations for each multiplication with its addition, and of what a step does
only what its result depends on:

- forward: everything, but the tower and the Q-Former only for pictures whose vision tokens are not kept; attention
  in the language model only to what a position sees, so half of the square; nothing behind the last position of a
  sample that predicts a target, and nothing of a sample without any, which stands in where a batch has fewer samples
  than there are processes; in its last layer queries and all that comes after them only where one is predicted; logits
  only there;
- backward: what carries gradients through the frozen language model to its norms and adapters and to the projections,
  and the gradients of the projections' and adapters' own weights. No weight of a frozen part has one, nothing goes
  back through Q-Former and tower, and nothing that is computed a second time counts (checkpointing, attention).

Padding counts nowhere, so a batch needs the same packed or not. Norms, activations, softmax, rotary embeddings, the
loss and the optimizer are left out: at the paper's size they are less than one part in a hundred.

By hand, at the paper's size: a picture of 224 px is 257 tokens of the tower, whose layers have 39 x (4 x 1408^2 +
2 x 1408 x 6144) = 984,023,040 weights: 2 x 257 x that is 5.058e11. Attention adds 39 x 4 x 257^2 x 1408 = 1.45e10, the
patches 2 x 256 x 588 x 1408 = 4.2e8: 5.207e11 for a picture.

Plain integers and the standard library alone, so that a plan can ask as well as a training step.
"""

import re
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING

from tinygptv_core.sizes import COLOURS, LlmSizes, ModelSizes, QFormerSizes, TowerSizes

if TYPE_CHECKING:
    from tinygptv_core.batch import Batch

PEAK_FLOPS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090 Ti": 80e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Words of a GPU's name, more of them before fewer -> its peak in operations a second.

In bfloat16 or float16 with sums in float32, without sparsity. Source: NVIDIA's data sheets and white papers.
"""

LESS_THAN_ITS_NAME = {"MIG", "Laptop"}
"""Words of a name that is also that of a faster device."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a batch asks for, summed over its samples, so that `+` gives that of several.

    Attributes:
        pictures: that the tower and the Q-Former look at: none whose vision tokens are kept.
        projected: pictures whose vision tokens are projected: of samples that have a target.
        positions: of the language model that a target comes of, the pictures' tokens among them.
        pairs: (a position, one that it sees): n (n + 1) / 2 of a sample of n positions.
        targets: tokens that are predicted.
        target_pairs: (a position that predicts a target, one that it sees).
    """

    pictures: int
    projected: int
    positions: int
    pairs: int
    targets: int
    target_pairs: int

    def __add__(self, other: "Work") -> "Work":
        """The work of both."""
        return Work(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Work)})


NO_WORK = Work(pictures=0, projected=0, positions=0, pairs=0, targets=0, target_pairs=0)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations on the way forward and on the way back."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Both."""
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        """The operations of both."""
        return Flops(forward=self.forward + other.forward, backward=self.backward + other.backward)


def work_of(batch: "Batch", queries: int) -> Work:
    """What a batch asks for. Its tensors should be on the CPU: those of a GPU are waited for.

    Args:
        batch: padded on the right. Positions that are not attended to count nowhere.
        queries: tokens of a picture.
    """
    from torch.nn import functional

    from tinygptv_core.batch import IGNORED

    tokens_BT = batch.mask_BT.long()
    predicts_BT = functional.pad(batch.labels_BT[:, 1:] != IGNORED, (0, 1))
    pictures = 0
    if batch.slot_B is not None:
        # The slot of text alone among pictures is its last token, which no target sees.
        is_seen_B = (batch.slot_B < tokens_BT.cumsum(1).argmax(1)) & predicts_BT.any(1)
        pictures = int(is_seen_B.sum())
        tokens_BT.scatter_(1, batch.slot_B[:, None], (is_seen_B * queries)[:, None])
    seen_BT = tokens_BT.cumsum(1)
    positions_B = (seen_BT * predicts_BT).amax(1)  # what the last one sees, itself among it
    return Work(
        pictures=pictures if batch.queries_BQE is None else 0,
        projected=pictures,
        positions=int(positions_B.sum()),
        pairs=int((positions_B * (positions_B + 1) // 2).sum()),
        targets=int(predicts_BT.sum()),
        target_pairs=int(seen_BT[predicts_BT].sum()),
    )


def needed_flops(sizes: ModelSizes, work: Work, *, image_size: int, lora_rank: int) -> Flops:
    """The operations that a step on `work` needs.

    Args:
        image_size: side of the pictures, in pixels.
        lora_rank: of the adapters; 0 without any.
    """
    return (
        vision_flops(sizes, work.pictures, image_size)
        + projection_flops(sizes, work.projected)
        + llm_flops(sizes.llm, work, lora_rank)
    )


def vision_flops(sizes: ModelSizes, pictures: int, image_size: int) -> Flops:
    """Of tower and Q-Former, which are frozen and under which nothing is trained."""
    tokens = (image_size // sizes.vision.patch_size) ** 2 + 1
    return Flops(
        forward=pictures
        * (_tower_flops(sizes.vision, tokens) + _qformer_flops(sizes.qformer, sizes.vision.width, tokens)),
        backward=0,
    )


def _tower_flops(tower: TowerSizes, tokens: int) -> int:
    """Forward for one picture of so many tokens, the class token among them."""
    patches = 2 * (tokens - 1) * COLOURS * tower.patch_size**2 * tower.width
    linear = 2 * tokens * (4 * tower.width**2 + 2 * tower.width * tower.mlp_width)
    return patches + tower.layers * (linear + _attention_flops(tower.width, tokens**2))


def _qformer_flops(qformer: QFormerSizes, read_width: int, tokens: int) -> int:
    """Forward for one picture of which so many tokens of width `read_width` are read."""
    width, queries = qformer.width, qformer.queries
    own = 2 * queries * (4 * width**2 + 2 * width * qformer.mlp_width) + _attention_flops(width, queries**2)
    reading = 2 * queries * 2 * width**2 + 2 * tokens * 2 * read_width * width
    reading += _attention_flops(width, queries * tokens)
    reading_layers = -(-qformer.layers // qformer.cross_attention_every)
    return qformer.layers * own + reading_layers * reading


def projection_flops(sizes: ModelSizes, pictures: int) -> Flops:
    """Of the projections: all have gradients of their weights, and all but the first pass them on."""
    first, *others = (2 * come * go for come, go in pairwise(sizes.projection_widths))
    tokens = pictures * sizes.qformer.queries
    return Flops(forward=tokens * (first + sum(others)), backward=tokens * (first + 2 * sum(others)))


def llm_flops(llm: LlmSizes, work: Work, lora_rank: int) -> Flops:
    """Of the language model and its logits.

    The norms of every layer are trained, so that gradients go back through every Linear at every position, to the
    first layer's input.
    """
    width = llm.width
    everywhere, wanted = 2 * width**2, 2 * width**2 + 2 * width * llm.mlp_width
    # The adapter of queries, keys and values has one A for all of them; that of `dense` has A and B.
    adapters_everywhere, adapters_wanted = 3 * width * lora_rank, 3 * width * lora_rank
    inner = llm.layers - 1
    positions = inner * work.positions + work.positions, inner * work.positions + work.targets
    linear = 2 * (positions[0] * everywhere + positions[1] * wanted)
    adapters = 2 * (positions[0] * adapters_everywhere + positions[1] * adapters_wanted)
    attention = _attention_flops(width, inner * work.pairs + work.target_pairs)
    logits = 2 * work.targets * width * llm.vocabulary
    return Flops(
        forward=linear + adapters + attention + logits,
        backward=linear + 2 * adapters + 2 * attention + logits,
    )


def _attention_flops(width: int, pairs: int) -> int:
    """Forward, of all heads together: queries with keys, and weights with values."""
    return 2 * 2 * width * pairs


def peak_flops(device_name: str) -> float | None:
    """The most that a GPU can do in 16 bits, in operations a second; None for one that is not known.

    Args:
        device_name: as torch tells it (`torch.cuda.get_device_name()`).
    """
    words = set(re.split(r"[\s-]+", device_name))
    if words & LESS_THAN_ITS_NAME:
        return None
    return next((peak for name, peak in PEAK_FLOPS.items() if words >= set(name.split())), None)
