"""The work that both ways do: a model at two widths, and what it is trained on and asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor, nn

from tinygptv_core.formats.architectures import architecture
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prompt import Tokenizer
from tinygptv_core.recipe import Turn
from tinygptv_core.scenes import texts
from tinygptv_core.scenes.scene import Scene, draw_scene
from tinygptv_core.settings import SHIPPED
from tinygptv_core.sizes import LlmSizes, ModelSizes, QFormerSizes, TowerSizes
from tinygptv_core.stage import Lora, Stage
from tinygptv_core.stages import NANO_STAGE2, NANO_STAGE4
from tinygptv_core.trainable import lora_parameters
from tinygptv_core.weights import Backbones, load_backbones, new_backbones, read_tokenizer

# Shape letters of this file: B batch, H = W side in pixels.

CAPTION_TOKENS = 16
"""Captions are cut at so many target tokens; each is that long."""

MOST_EXCHANGES = 8
"""Of a conversation. Those of 1, 2, ... exchanges are equally many."""

MIDDLE_SIZES = ModelSizes(
    vision=TowerSizes(width=384, mlp_width=1536, layers=12, heads=6, image_size=224, patch_size=14),
    qformer=QFormerSizes(width=256, mlp_width=1024, layers=6, heads=4, cross_attention_every=2, queries=32),
    llm=LlmSizes(
        width=512,
        mlp_width=2048,
        layers=8,
        heads=8,
        vocabulary=51_200,
        positions=2048,
        rotary_fraction=0.5,
        dropout=0.0,
        end_id=0,
    ),
    projection_widths=(256, 512, 512),
)
"""Between the preset `nano` and the paper."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """One size of the model.

    Attributes:
        backbones: makes them anew, the same ones each time.
        side: of the pictures, in pixels.
    """

    backbones: Callable[[], Backbones]
    lora: Lora
    side: int

    def model(self) -> tuple[TinyGPTV, Tokenizer]:
        """A model of one's own, the same each time. Nothing in it drops out, so that two ways can be compared.

        Its adapters do something already: fresh ones leave the gradients of one half of their weights at 0.
        """
        parts = self.backbones()
        model = TinyGPTV.from_backbones(parts, self.lora, seed=1)
        generator = torch.Generator().manual_seed(2)
        for name, parameter in lora_parameters(model.llm).items():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=0.02, generator=generator)
        return model, parts.tokenizer


def _nano() -> Backbones:
    return load_backbones(SHIPPED / "nano", torch.float32)


def _middle() -> Backbones:
    """Random; the tokenizer is the preset's, which has fewer tokens than the vocabulary."""
    sizes = architecture(MIDDLE_SIZES)
    sizes.vision.initializer_range = 0.02
    return new_backbones(sizes, read_tokenizer(SHIPPED / "nano" / "tokenizer"), seed=1)


WIDTHS: Mapping[str, Width] = {
    "nano": Width(backbones=_nano, lora=Lora(rank=32, alpha=64, dropout=0.0), side=64),
    # The paper's rank of 64 is to its width as 13 is to this one.
    "middle": Width(backbones=_middle, lora=Lora(rank=16, alpha=16, dropout=0.0), side=224),
}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A batch to learn from, not yet tokenized: pictures, and what is said about each."""

    stage: Stage
    images_B3HW: Tensor
    turns: tuple[tuple[Turn, ...], ...]


CAPTIONS = replace(NANO_STAGE2, dialect="published", max_tokens=CAPTION_TOKENS)
"""Stage 2, whose captions are all equally long once they are cut."""

CONVERSATIONS = replace(NANO_STAGE4, dialect="published", max_tokens=1024)
"""Stage 4: conversations of 1 to `MOST_EXCHANGES` questions and answers."""


def captions(count: int, side: int) -> Samples:
    """Pictures with captions."""
    return Samples(stage=CAPTIONS, images_B3HW=noise(count, side), turns=spoken_captions(count))


def conversations(count: int, side: int) -> Samples:
    """Pictures with conversations."""
    return Samples(stage=CONVERSATIONS, images_B3HW=noise(count, side), turns=spoken_conversations(count))


def spoken_captions(count: int) -> tuple[tuple[Turn, ...], ...]:
    """A caption for each of so many pictures."""
    return tuple((Turn("assistant", texts.detailed_caption(scene)),) for scene in _scenes(count))


def spoken_conversations(count: int) -> tuple[tuple[Turn, ...], ...]:
    """A conversation about each of so many pictures."""
    return tuple(_conversation(scene, 1 + row % MOST_EXCHANGES) for row, scene in enumerate(_scenes(count)))


def _conversation(scene: Scene, exchanges: int) -> tuple[Turn, ...]:
    random = Random(exchanges)
    asked = [texts.question(random, scene, texts.GROUP_WEIGHTS) for _ in range(exchanges)]
    return tuple(turn for one in asked for turn in (Turn("user", one.text), Turn("assistant", one.answer)))


def questions(count: int) -> list[str]:
    """The words of questions, of different lengths."""
    random = Random(2)
    return [texts.question(random, scene, texts.GROUP_WEIGHTS).text for scene in _scenes(count)]


def noise(count: int, side: int) -> Tensor:
    """images_B3HW: what pictures show does not bear on how long they take."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def _scenes(count: int) -> list[Scene]:
    random = Random(1)
    return [draw_scene(random, "train") for _ in range(count)]
