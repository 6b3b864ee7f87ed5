"""How large each part is, as plain numbers: what files of weights do not say of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tinygptv_core.plain import ConfigError, require

COLOURS = 3
"""The channels of a picture."""


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """The vision tower. `image_size` and `patch_size` in pixels; the width is split among the heads."""

    width: int
    mlp_width: int
    layers: int
    heads: int
    image_size: int
    patch_size: int


@dataclass(frozen=True, kw_only=True)
class QFormerSizes:
    """The Q-Former: every `cross_attention_every`-th layer, from the first on, reads the picture."""

    width: int
    mlp_width: int
    layers: int
    heads: int
    cross_attention_every: int
    queries: int


@dataclass(frozen=True, kw_only=True)
class LlmSizes:
    """The language model.

    Attributes:
        vocabulary: rows of the embedding, in tokens; the tokenizer may have fewer.
        positions: the most that a sequence can have, in tokens.
        rotary_fraction: of a head's width, the part that is turned by its position; 0 < fraction <= 1.
        dropout: on what attention and MLP give, in training only; 0..1.
        end_id: the token that begins and ends a text, and pads it.
    """

    width: int
    mlp_width: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    rotary_fraction: float
    dropout: float
    end_id: int


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """All of them. `projection_widths` go from the Q-Former's width to the LLM's (see `weights.Architecture`)."""

    vision: TowerSizes
    qformer: QFormerSizes
    llm: LlmSizes
    projection_widths: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, part in (("vision", self.vision), ("qformer", self.qformer), ("llm", self.llm)):
            for field in fields(part):
                if isinstance(value := getattr(part, field.name), int) and field.name != "end_id":
                    require(value, f"{name}.{field.name}", at_least=1)
            if part.width % part.heads:
                raise ConfigError(f"{name}.width is {part.width}, which does not divide among {part.heads} heads")
        ends = (self.qformer.width, self.llm.width)
        if len(self.projection_widths) < 2 or (self.projection_widths[0], self.projection_widths[-1]) != ends:
            raise ConfigError(
                f"projection_widths is {list(self.projection_widths)}; it must go from {ends[0]} (Q-Former) "
                f"to {ends[1]} (LLM)"
            )


def sizes_told(
    vision: Mapping[str, Any],
    qformer: Mapping[str, Any],
    llm: Mapping[str, Any],
    *,
    queries: int,
    projection_widths: tuple[int, ...],
) -> ModelSizes:
    """The sizes that transformers' configurations tell, which are plain JSON here; what they are silent on is given."""
    return ModelSizes(
        vision=TowerSizes(
            width=vision["hidden_size"],
            mlp_width=vision["intermediate_size"],
            layers=vision["num_hidden_layers"],
            heads=vision["num_attention_heads"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
        ),
        qformer=QFormerSizes(
            width=qformer["hidden_size"],
            mlp_width=qformer["intermediate_size"],
            layers=qformer["num_hidden_layers"],
            heads=qformer["num_attention_heads"],
            cross_attention_every=qformer["cross_attention_frequency"],
            queries=queries,
        ),
        llm=LlmSizes(
            width=llm["hidden_size"],
            mlp_width=llm["intermediate_size"],
            layers=llm["num_hidden_layers"],
            heads=llm["num_attention_heads"],
            vocabulary=llm["vocab_size"],
            positions=llm["max_position_embeddings"],
            rotary_fraction=llm["rope_parameters"]["partial_rotary_factor"],
            dropout=llm["resid_pdrop"],
            end_id=llm["eos_token_id"],
        ),
        projection_widths=projection_widths,
    )


PAPER_SIZES = ModelSizes(
    vision=TowerSizes(width=1408, mlp_width=6144, layers=39, heads=16, image_size=224, patch_size=14),
    qformer=QFormerSizes(width=768, mlp_width=3072, layers=12, heads=12, cross_attention_every=2, queries=32),
    llm=LlmSizes(
        width=2560,
        mlp_width=10_240,
        layers=32,
        heads=32,
        vocabulary=51_200,
        positions=2048,
        rotary_fraction=0.4,
        dropout=0.1,
        end_id=50_256,
    ),
    projection_widths=(768, 4096, 2560),
)
"""TinyGPT-V as published: EVA-CLIP's ViT-g/14, BLIP-2's Q-Former and Phi-2. Source: arXiv:2312.16862, section 3."""
