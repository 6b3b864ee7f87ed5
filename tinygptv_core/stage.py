"""What a stage of training is: its mix, adapters, schedule and prompts, each refused where it cannot be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from tinygptv_core.compute import Precision
from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY, ConfigError, require

Dialect = Literal["tinygptv", "published"]
"""How a model is spoken to: our way, or the reference's where the published weights depend on it (`prompt.py`)."""

Norm = Literal["qk_norm", "rms_norm", "input_norm"]
"""A norm of every layer of the language model: on queries and keys, on what attention gives, on what comes in."""

PUBLISHED_QUESTION = "###Human: {}###Assistant: "
"""The evaluations and the chat of the reference ask in this template, whatever the stage was trained with."""

# Phi-2's own form of a question, from its model card: what it knows before any stage taught it another.
PHI_QUESTION = "Instruct: {}\nOutput:"


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

    @property
    def epoch_steps(self) -> int:
        """The steps after which a published warm-up or accumulation begins again: all, unless it is published."""
        return self.published_epoch_steps or self.steps


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
        if self.published_accumulation > (most := min(self.schedule.epoch_steps, self.schedule.steps)):
            raise ConfigError(
                f"published_accumulation is {self.published_accumulation}; above {most}, the steps of an epoch, "
                "the optimizer would never be stepped"
            )
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
