"""The stages at the paper's size as work for one GPU: a model with random weights, and batches as long as real ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.memory import fill_with
from benchmarks.shards import Spoken
from tinygptv_core.batch import Batch
from tinygptv_core.formats.architectures import architecture
from tinygptv_core.model import TinyGPTV
from tinygptv_core.precision import dtype_of
from tinygptv_core.prompt import Tokenizer, collate, encode_training
from tinygptv_core.recipe import Turn
from tinygptv_core.settings import SHIPPED
from tinygptv_core.sizes import PAPER_SIZES, LlmSizes, ModelSizes, QFormerSizes, TowerSizes
from tinygptv_core.stage import Stage
from tinygptv_core.stages import PAPER_STAGES
from tinygptv_core.training.flops import NO_WORK, needed_flops, work_of
from tinygptv_core.vision import normalised
from tinygptv_core.weights import NORMS, Convert, read_tokenizer

# Shape letters of this file: B batch, H = W side in pixels, Q image queries, E width of the Q-Former.

Precision = Literal["bfloat16", "float16"]

WORD = " a"
"""One token of the tokenizer that this package has."""

DEVIATION = 0.02
"""Of the random weights. At transformers' own for the tower, 1e-10, all pictures would be one."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """How much is said about a picture, in tokens.

    Attributes:
        asked: of a question; None where nothing is asked.
        answered: the least and the most of an answer, equally likely with all between.
        exchanges: questions with their answers.
    """

    asked: int | None
    answered: tuple[int, int]
    exchanges: int = 1


CAPTION = Said(asked=None, answered=(8, 24))
DESCRIPTION = Said(asked=12, answered=(60, 140))
BOX, PHRASE, ANSWER = (
    Said(asked=14, answered=(17, 17)),
    Said(asked=22, answered=(3, 12)),
    Said(asked=22, answered=(2, 4)),
)

STAGE4: Mapping[str, Said] = {
    "multitask_conversation": Said(asked=20, answered=(3, 20), exchanges=4),
    "llava_conversation": Said(asked=12, answered=(10, 40), exchanges=4),
    "llava_detail": Said(asked=15, answered=(90, 170)),
    "llava_reason": Said(asked=20, answered=(90, 190)),
    "refvg": BOX,
    "flickr_grounded_caption": Said(asked=15, answered=(50, 120)),
    "flickr_CaptionToPhrase": Said(asked=25, answered=(30, 90)),
    "flickr_ObjectToPhrase": Said(asked=8, answered=(20, 30)),
    "textcaps_caption": Said(asked=12, answered=(8, 24)),
    **dict.fromkeys(("refcoco", "refcocop", "refcocog"), BOX),
    **dict.fromkeys(("invrefcoco", "invrefcocop", "invrefcocog"), PHRASE),
    **dict.fromkeys(("coco_vqa", "ok_vqa", "aok_vqa", "gqa"), ANSWER),
}
"""Guessed from what the data sets hold. Text alone (10 of 690 draws) is left out: the other way has no batch of it."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size of everything.

    Attributes:
        side_share, batch_share: of the paper's pictures and batches, what is taken: one in so many.
    """

    sizes: ModelSizes
    side_share: int
    batch_share: int


FULL = Scale(sizes=PAPER_SIZES, side_share=1, batch_share=1)
TOY = Scale(
    sizes=ModelSizes(
        vision=TowerSizes(width=64, mlp_width=128, layers=2, heads=4, image_size=56, patch_size=14),
        qformer=QFormerSizes(width=32, mlp_width=64, layers=2, heads=4, cross_attention_every=2, queries=32),
        llm=LlmSizes(
            width=64,
            mlp_width=128,
            layers=2,
            heads=4,
            vocabulary=1024,
            positions=2048,
            rotary_fraction=0.5,
            dropout=0.0,
            end_id=0,
        ),
        projection_widths=(32, 64, 64),
    ),
    side_share=4,
    batch_share=16,
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one row of the table steps through, again and again.

    Attributes:
        images_B3HW: bytes; of as many pictures as the largest batch has, the same for each batch.
        spoken: of every batch, in order.
    """

    stage: Stage
    scale: Scale
    images_B3HW: Tensor
    spoken: tuple[Spoken, ...]

    @property
    def samples(self) -> int:
        """Of all batches together."""
        return sum(map(len, self.spoken))

    @property
    def lora_rank(self) -> int:
        """Of the adapters; 0 without any."""
        return self.stage.lora.rank if self.stage.lora else 0

    def pixels(self, index: int) -> Tensor:
        """images_B3HW of a batch, normalised, in float32, as the reference's loader gives them."""
        return normalised(self.images_B3HW[: len(self.spoken[index])]).contiguous()

    def batches(self, *, kept: bool) -> list[Batch]:
        """Our batches, as our loader gives them; where vision tokens are kept, with those in the pictures' place."""
        tokenizer = new_tokenizer()
        return [self._batch(tokenizer, said, kept) for said in self.spoken]

    def _batch(self, tokenizer: Tokenizer, spoken: Spoken, kept: bool) -> Batch:
        encoded = [encode_training(tokenizer, said, prompt="{}", stage=self.stage, has_image=True) for said in spoken]
        keys = [str(row) for row in range(len(spoken))]
        images_B3HW = self.images_B3HW[: len(spoken)]
        batch = collate(encoded, images_B3HW, keys=keys, pad_id=tokenizer.pad_token_id, side="right")
        if not kept:
            return batch
        qformer = self.scale.sizes.qformer
        queries_BQE = torch.randn(len(spoken), qformer.queries, qformer.width, dtype=torch.float16)
        return replace(batch, images_B3HW=None, queries_BQE=queries_BQE)

    def flops(self, *, kept: bool) -> int:
        """What all batches need together (`tinygptv_core/training/flops.py`)."""
        sizes = self.scale.sizes
        work = sum((work_of(batch, sizes.qformer.queries) for batch in self.batches(kept=kept)), NO_WORK)
        return needed_flops(sizes, work, image_size=self.stage.image_size, lora_rank=self.lora_rank).total


def work_of_stage(number: int, batch: int | None, batches: int, scale: Scale, precision: Precision) -> Work:
    """So many batches of stage 1, 2, 3 or 4.

    Args:
        batch: samples of each; None: as each data set of the stage has it.
    """
    paper = PAPER_STAGES[number - 1]
    side = paper.image_size // scale.side_share
    stage = replace(paper, image_size=side, precision=precision, dialect="published")
    random = Random(number)
    names = random.choices(list(_said(number)), [paper.mix[name].weight for name in _said(number)], k=batches)
    counts = [_share(batch or paper.mix[name].batch, scale.batch_share) for name in names]
    spoken = tuple(
        tuple(_turns(random, _said(number)[name]) for _ in range(count))
        for name, count in zip(names, counts, strict=True)
    )
    images_B3HW = torch.randint(0, 256, (max(counts), 3, side, side), dtype=torch.uint8)
    return Work(stage=stage, scale=scale, images_B3HW=images_B3HW, spoken=spoken)


def _share(batch: int, share: int) -> int:
    return max(batch // share, 1)


def _said(number: int) -> Mapping[str, Said]:
    """Data set -> what is said, of a stage."""
    if number == 4:
        return STAGE4
    return dict.fromkeys(PAPER_STAGES[number - 1].mix, DESCRIPTION if number == 3 else CAPTION)


def _turns(random: Random, said: Said) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for _ in range(said.exchanges):
        if said.asked is not None:
            turns.append(Turn("user", WORD * said.asked))
        turns.append(Turn("assistant", WORD * random.randint(*said.answered)))
    return tuple(turns)


def new_tokenizer() -> Tokenizer:
    """The one of the preset `nano`, whose tokens are among those of any model here."""
    return read_tokenizer(SHIPPED / "nano" / "tokenizer")


def new_model(work: Work, device: torch.device, convert: Convert | None = None) -> TinyGPTV:
    """The model of a stage with random weights, which are made on the device, one tensor at a time.

    Args:
        convert: applied to each Linear of the tower and the LLM that is no adapter's as soon as it is there, as when a
            model is loaded. It gets them on the CPU.
    """
    model = TinyGPTV.on_meta(architecture(work.scale.sizes), work.stage.lora)
    dtype = dtype_of(work.stage.precision)
    torch.manual_seed(1)
    fill_with(
        lambda shape: torch.empty(shape, dtype=dtype, device=device).normal_(std=DEVIATION), model, dtype, convert
    )
    for part in model.modules():
        if isinstance(part, NORMS):
            _begin(part)
    return model.to(device)


def _begin(norm: nn.Module) -> None:
    """Let a norm be as it is before training."""
    for name, parameter in norm.named_parameters(recurse=False):
        nn.init.constant_(parameter, float(name == "weight"))
