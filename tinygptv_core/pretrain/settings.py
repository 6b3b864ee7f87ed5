"""What the pre-training of backbones depends on, as data."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PretrainingSizes:
    """The sizes of all parts. The tower, the Q-Former and the language model are equally wide.

    Attributes:
        head_width: of every attention; the number of heads is width / head_width.
        projection: the width between the two projections, which no pre-training touches.
        context: the most positions of the language model, in tokens.
        vocabulary: of the tokenizer, in tokens.
    """

    width: int
    head_width: int
    feed_forward: int
    patch_pixels: int
    vision_layers: int
    qformer_layers: int
    language_layers: int
    projection: int
    context: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW from `peak` down a cosine to 0 after a linear warm-up; `batch` in samples."""

    seed: int
    steps: int
    warmup_steps: int
    batch: int
    peak: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Everything that the backbones' bytes depend on, data and code apart.

    Attributes:
        prompts: texts that later stages put around a question; they shape the tokenizer, and no weight.
    """

    sizes: PretrainingSizes
    seed: int
    prompts: tuple[str, ...]
    tower: Optimization
    language: Optimization
