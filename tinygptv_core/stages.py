"""The four stages as one table. What differs from stage to stage is what one reads here.

TinyGPT-V, arXiv:2312.16862, section 3.2 and the configurations of its public repository.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from tinygptv_core.compute import Precision
from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY, ConfigError, require

Dialect = Literal["tinygptv", "published"]
"""How a model is spoken to: our way, or the reference's where the published weights depend on it (`prompt.py`)."""

Norm = Literal["qk_norm", "rms_norm", "input_norm"]
"""A norm of every layer of the language model: on queries and keys, on what attention gives, on what comes in."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A data set's part of a mix: drawn with probability weight / sum of weights, `batch` samples at once."""

    weight: float
    batch: int

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"weight is {self.weight}; it must be above 0")
        require(self.batch, "batch", at_least=1)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the fused `query_key_value` and on `dense` of every attention block."""

    rank: int
    alpha: float
    dropout: float

    def __post_init__(self) -> None:
        require(self.rank, "rank", at_least=1)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must lie in 0..1, 1 excluded")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rates: linear from `start` to `peak`, then the cosine from `peak` to `end` over all `steps`.

    As in the reference the cosine has no warm-up offset, so that the rate jumps down at the end of
    the warm-up; unlike it, warm-up counts total steps and an end above the peak is refused.

    Attributes:
        published_epoch_steps: names the schedule as published: the warm-up starts again after every so
            many steps (the reference's epoch) for as long as it lasts, which may be longer than all
            steps, and the end may lie above the peak.
    """

    start: float
    peak: float
    end: float
    warmup_steps: int
    steps: int
    published_epoch_steps: int | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        require(self.steps, "steps", at_least=1)
        if self.warmup_steps < 0 or (self.warmup_steps > self.steps and self.published_epoch_steps is None):
            raise ConfigError(f"warmup_steps is {self.warmup_steps}; it must lie in 0..{self.steps} (steps)")
        if min(self.start, self.peak, self.end) < 0:
            raise ConfigError(f"start, peak and end are {self.start}, {self.peak} and {self.end}; none may be below 0")
        if self.published_epoch_steps is not None and self.published_epoch_steps < 1:
            raise ConfigError(f"published_epoch_steps is {self.published_epoch_steps}; it must be at least 1")
        if self.end > self.peak and self.published_epoch_steps is None:
            raise ConfigError(
                f"end is {self.end}, above the peak of {self.peak}: a rate that rises is refused. "
                "The schedule as published, whose rate does rise, is named by published_epoch_steps."
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training: everything that its result depends on, data and backbones apart.

    Attributes:
        mix: data set -> its share. A whole batch is drawn from one data set.
        image_size: side of the square that the tower sees, in pixels.
        max_tokens: the most target tokens of one answer, its end symbol among them.
        lora: the adapters; None trains without them.
        prompt_template: what stands around a question, `{}` in its place; None: nothing is asked.
        eval_template: the same for evaluating a stage that was trained without questions; of a
            published stage, for evaluating it at all, in `PUBLISHED_QUESTION` instead of Phi's own words.
        end_symbol: what ends an answer.
        clip_norm: the largest norm of all gradients together; None does not clip, as the reference.
        held_out_samples: of each data set, kept out of training to measure the loss before and after.
        evals: files of `tinygptv_core/evals` to score the stage on. They do not bear on training.
        dialect: how samples and questions are spelled, for weights that were trained in that spelling.
        published_accumulation: after how many steps the optimizer is stepped, with the sum of the
            steps' gradients: the reference's accumulation, which does not divide. 1 is none.
        without: the norms that the language model does without: the paper's ablations. All stages of a run agree.
    """

    name: str
    mix: Mapping[str, Share]
    image_size: int
    max_tokens: int
    precision: Precision
    schedule: Schedule
    lora: Lora | None
    prompt_template: str | None
    eval_template: str
    end_symbol: str
    weight_decay: float
    clip_norm: float | None
    held_out_samples: int
    seed: int
    evals: tuple[str, ...] = field(metadata=NOT_IDENTITY)
    dialect: Dialect = field(default="tinygptv", metadata=IDENTITY_UNLESS_DEFAULT)
    published_accumulation: int = field(default=1, metadata=IDENTITY_UNLESS_DEFAULT)
    without: tuple[Norm, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        for name in ("image_size", "max_tokens", "held_out_samples", "published_accumulation"):
            require(getattr(self, name), name, at_least=1)
        require(self.weight_decay, "weight_decay", at_least=0)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm}; it must be above 0, or null for none")
        if not self.mix:
            raise ConfigError("mix is empty; a stage draws from one data set at least")
        if self.without != tuple(norm for norm in get_args(Norm) if norm in self.without):
            raise ConfigError(
                f"without is {list(self.without)}; it may hold, once each, in this order: {', '.join(get_args(Norm))}"
            )
        for name, template in (("prompt_template", self.prompt_template), ("eval_template", self.eval_template)):
            if template is not None and template.count("{}") != 1:
                raise ConfigError(f"{name} is {template!r}; it must hold {{}} once, where the question goes")

    @property
    def asks(self) -> str:
        """The template that a question is asked in after training."""
        return asking_template(self.dialect, self.prompt_template, self.eval_template)


def asking_template(dialect: Dialect, prompt_template: str | None, eval_template: str) -> str:
    """The training's own template, or that of evaluation where it has none, or is published and so evaluated.

    What was trained in the published dialect was never asked in Phi's words: they stand for the reference's then.
    """
    if dialect == "published":
        return PUBLISHED_QUESTION if eval_template == PHI_QUESTION else eval_template
    return eval_template if prompt_template is None else prompt_template


def check_adapters(earlier: str, lora: Lora | None, stage: Stage) -> None:
    """Refuse a stage that cannot go on from the adapters before it: it may add some, or keep their rank.

    Args:
        earlier: the stage before it, which trained `lora`.

    Raises:
        ConfigError: it cannot.
    """
    if lora is not None and (stage.lora is None or stage.lora.rank != lora.rank):
        own = f"some of rank {stage.lora.rank}" if stage.lora else "none"
        raise ConfigError(
            f"{earlier} has adapters of rank {lora.rank}, but {stage.name}, which goes on from it, has {own}. They may "
            f"begin with any stage; from then on all have them, of one rank.\n"
            f"  set lora of {earlier} and {stage.name} alike, or to null in both"
        )


def samples_drawn(stages: Sequence[Stage], dataset: str) -> int:
    """How many samples of `dataset` the stages draw, all together, on average over the mix's chances.

    A stage's share of batches is weight / sum of weights (`draws.py`, `Order`).
    """
    drawn = 0
    for stage in stages:
        if (share := stage.mix.get(dataset)) is not None:
            batches = stage.schedule.steps * share.weight / sum(item.weight for item in stage.mix.values())
            drawn += math.ceil(batches) * share.batch
    return drawn


def samples_wanted(stages: Sequence[Stage], dataset: str) -> int:
    """How many samples of `dataset` it takes for none to be drawn twice, those held out among them."""
    return samples_drawn(stages, dataset) + sum(stage.held_out_samples for stage in stages if dataset in stage.mix)


PUBLISHED_QUESTION = "###Human: {}###Assistant: "
"""The evaluations and the chat of the reference ask in this template, whatever the stage was trained with."""

# Phi-2's own form of a question, from its model card: what it knows before any stage taught it another.
PHI_QUESTION = "Instruct: {}\nOutput:"

NANO_EVALS = ("scenes_vqa", "scenes_vqa_unseen", "scenes_refer", "scenes_caption")

NANO_STAGE1 = Stage(
    name="stage1",
    mix={"scenes_web": Share(weight=115, batch=32), "scenes_alt": Share(weight=14, batch=32)},
    image_size=64,
    max_tokens=32,
    precision="float32",
    schedule=Schedule(start=1e-5, peak=3e-3, end=1e-5, warmup_steps=20, steps=110),
    # The paper adds LoRA in stage 2; the reference's published stage 1 has it by a default value,
    # which its authors call a mistake.
    lora=None,
    prompt_template=None,
    eval_template=PHI_QUESTION,
    end_symbol="\n",
    weight_decay=0.05,
    clip_norm=1.0,
    held_out_samples=32,
    seed=42,
    evals=NANO_EVALS,
)
NANO_STAGE2 = replace(
    NANO_STAGE1,
    name="stage2",
    lora=Lora(rank=32, alpha=64, dropout=0.05),
    schedule=replace(NANO_STAGE1.schedule, steps=120),
)
NANO_STAGE3 = replace(
    NANO_STAGE2,
    name="stage3",
    mix={"scenes_detail": Share(weight=1, batch=32)},
    max_tokens=160,
    schedule=replace(NANO_STAGE2.schedule, peak=2e-3, steps=50),
    prompt_template="###Human: {} ###Assistant: ",
    end_symbol="###",
)
NANO_STAGE4 = replace(
    NANO_STAGE3,
    name="stage4",
    mix={
        "scenes_vqa": Share(weight=60, batch=32),
        "scenes_refer": Share(weight=40, batch=32),
        "scenes_identify": Share(weight=10, batch=24),
        "scenes_caption": Share(weight=10, batch=16),
        "scenes_grounding": Share(weight=10, batch=16),
        "scenes_conversation": Share(weight=20, batch=12),
        "scenes_text": Share(weight=10, batch=12),
    },
    schedule=replace(NANO_STAGE3.schedule, steps=320),
    prompt_template="[INST] {} [/INST]",
)
NANO_STAGES = (NANO_STAGE1, NANO_STAGE2, NANO_STAGE3, NANO_STAGE4)

PAPER_EVALS = (
    "gqa_vqa",
    "vsr_vqa",
    "iconqa_vqa",
    "vizwiz_vqa",
    "hateful_memes_vqa",
    "ok_vqa",
    "refcoco_val",
    "refcoco_testa",
    "refcoco_testb",
    "refcocop_val",
    "refcocop_testa",
    "refcocop_testb",
    "refcocog_val",
    "refcocog_test",
)

PAPER_STAGE1 = Stage(
    name="stage1",
    mix={"laion": Share(weight=115, batch=64), "cc_sbu": Share(weight=14, batch=64)},
    image_size=224,
    max_tokens=32,
    precision="float16",
    # 17 times 1,000 steps in the paper; the repository says 17 times 5,000.
    schedule=Schedule(start=1e-6, peak=1e-4, end=8e-5, warmup_steps=1_000, steps=17 * 1_000),
    lora=None,
    prompt_template=None,
    eval_template=PHI_QUESTION,
    end_symbol="\n",
    weight_decay=0.05,
    clip_norm=1.0,
    held_out_samples=64,
    seed=42,
    evals=PAPER_EVALS,
)
PAPER_STAGE2 = replace(
    PAPER_STAGE1,
    name="stage2",
    lora=Lora(rank=64, alpha=16, dropout=0.05),
    schedule=replace(PAPER_STAGE1.schedule, warmup_steps=5_000, steps=4 * 5_000),
)
PAPER_STAGE3 = replace(
    PAPER_STAGE2,
    name="stage3",
    mix={"cc_sbu_align": Share(weight=1, batch=6)},
    max_tokens=160,
    schedule=replace(PAPER_STAGE2.schedule, peak=3e-5, end=1e-5, warmup_steps=200, steps=5 * 200),
    prompt_template="###Human: {} ###Assistant: ",
    end_symbol="###",
)
PAPER_STAGE4 = replace(
    PAPER_STAGE3,
    name="stage4",
    mix={
        "multitask_conversation": Share(weight=50, batch=1),
        "llava_conversation": Share(weight=30, batch=1),
        "unnatural_instruction": Share(weight=10, batch=1),
        "refvg": Share(weight=40, batch=3),
        "llava_detail": Share(weight=20, batch=2),
        "llava_reason": Share(weight=80, batch=2),
        "flickr_grounded_caption": Share(weight=80, batch=1),
        "flickr_CaptionToPhrase": Share(weight=80, batch=1),
        "flickr_ObjectToPhrase": Share(weight=80, batch=1),
        "textcaps_caption": Share(weight=30, batch=3),
        "refcoco": Share(weight=25, batch=3),
        "refcocop": Share(weight=25, batch=3),
        "refcocog": Share(weight=25, batch=3),
        "invrefcoco": Share(weight=10, batch=3),
        "invrefcocop": Share(weight=10, batch=3),
        "invrefcocog": Share(weight=10, batch=3),
        "coco_vqa": Share(weight=15, batch=3),
        "ok_vqa": Share(weight=8, batch=3),
        "aok_vqa": Share(weight=12, batch=3),
        "gqa": Share(weight=50, batch=3),
    },
    image_size=448,
    max_tokens=1_024,
    # Published to end at 8e-5, above its peak. This ends where it would if that were one digit off, and at four
    # fifths of the peak, as stages 1 and 2 do.
    schedule=replace(PAPER_STAGE3.schedule, peak=1e-5, end=8e-6, warmup_steps=1_000, steps=50 * 1_000),
    prompt_template="[INST] {} [/INST]",
)
PAPER_STAGES = (PAPER_STAGE1, PAPER_STAGE2, PAPER_STAGE3, PAPER_STAGE4)
"""The paper's four stages with its mistakes mended (docs/adr/0004-where-we-depart-from-the-reference.md)."""


def as_published(stage: Stage, epoch_steps: int) -> Stage:
    """`stage` in the reference's spelling and with its schedule, and without clipping.

    Args:
        epoch_steps: after how many steps the reference begins its warm-up again.
    """
    return replace(
        stage,
        schedule=replace(stage.schedule, published_epoch_steps=epoch_steps),
        eval_template=PUBLISHED_QUESTION,
        clip_norm=None,
        dialect="published",
    )


PUBLISHED_STAGES = (
    # Its authors call the adapters of stage 1, which are there by a default value, a mistake.
    as_published(
        replace(PAPER_STAGE1, lora=PAPER_STAGE2.lora, schedule=replace(PAPER_STAGE1.schedule, steps=17 * 5_000)),
        epoch_steps=5_000,
    ),
    as_published(PAPER_STAGE2, epoch_steps=5_000),
    as_published(PAPER_STAGE3, epoch_steps=200),
    as_published(
        replace(
            PAPER_STAGE4,
            schedule=replace(PAPER_STAGE4.schedule, end=8e-5, published_epoch_steps=1_000),
            prompt_template="[INST] {}  [/INST]",  # what is asked ends with a space there
        ),
        epoch_steps=1_000,
    ),
)
"""What the public repository runs, as far as weights that were trained so depend on it."""

SMALL_EVALS = ("ok_vqa",)

# A fortieth of the paper's samples in stages 1 and 2. Nobody has tried these rates: where a batch is four times the
# paper's, the rate is about that, too; stage 1, whose projections begin at random, has three times the paper's.
SMALL_STAGE1 = replace(
    PAPER_STAGE1,
    mix={"cc_sbu": Share(weight=1, batch=64)},
    precision="bfloat16",
    schedule=Schedule(start=1e-6, peak=3e-4, end=3e-5, warmup_steps=50, steps=450),
    evals=SMALL_EVALS,
)
SMALL_STAGE2 = replace(
    SMALL_STAGE1,
    name="stage2",
    lora=PAPER_STAGE2.lora,
    schedule=replace(SMALL_STAGE1.schedule, peak=1e-4, end=1e-5),
)
SMALL_STAGE3 = replace(
    SMALL_STAGE2,
    name="stage3",
    mix={"cc_sbu_align": Share(weight=1, batch=24)},
    max_tokens=160,
    schedule=replace(SMALL_STAGE2.schedule, warmup_steps=20, steps=140),
    prompt_template=PAPER_STAGE3.prompt_template,
    end_symbol=PAPER_STAGE3.end_symbol,
)
SMALL_STAGE4 = replace(
    SMALL_STAGE3,
    name="stage4",
    # What is about COCO's pictures alone, by the paper's weights.
    mix={
        "llava_conversation": Share(weight=30, batch=4),
        "llava_detail": Share(weight=20, batch=8),
        "llava_reason": Share(weight=80, batch=8),
        "coco_vqa": Share(weight=15, batch=12),
        "ok_vqa": Share(weight=8, batch=12),
        "aok_vqa": Share(weight=12, batch=12),
        "coco_caption": Share(weight=10, batch=12),
    },
    max_tokens=1_024,
    schedule=replace(SMALL_STAGE3.schedule, peak=4e-5, end=4e-6, warmup_steps=50, steps=1_000),
    prompt_template=PAPER_STAGE4.prompt_template,
)
SMALL_STAGES = (SMALL_STAGE1, SMALL_STAGE2, SMALL_STAGE3, SMALL_STAGE4)
"""The paper's model on one GPU in an hour or so (docs/reproduction.md has the sum); all stages look at 224 pixels."""
