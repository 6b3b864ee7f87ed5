"""Whole runs as data: backbones, data sets, stages and evaluations under one name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tinygptv_core import evals
from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY, ConfigError, change, require, unknown
from tinygptv_core.run import RunOptions
from tinygptv_core.sizes import PAPER_SIZES, Sizes
from tinygptv_core.stages import (
    NANO_STAGES,
    PAPER_EVALS,
    PAPER_STAGES,
    PUBLISHED_STAGES,
    SMALL_EVALS,
    SMALL_STAGES,
    Norm,
    Share,
    Stage,
    samples_wanted,
)

SHIPPED = Path(__file__).parent / "backbones"
"""Where the backbones that come with the package lie, a folder for each."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of published weights, or a folder of them, on the user's disk.

    Attributes:
        path: where it lies. Its content bears on what is made of it, its place does not.
        pins: file name -> the SHA-256 that it must have, in hex; files that are not named here may have any.
    """

    path: str | None = field(metadata=NOT_IDENTITY)
    pins: Mapping[str, str] = field(metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Published weights that backbones are made of.

    Attributes:
        vision: `eva_vit_g.pth`, or the folder of a BLIP-2 of Hugging Face.
        qformer: `blip2_pretrained_flant5xxl.pth`, or that folder again.
        llm: the folder of Phi-2, with its tokenizer.
        sizes: of all parts, which the files have to fit.
        dtype: of the tower and the language model on disk; their norms and the Q-Former are float32.
    """

    vision: Source
    qformer: Source
    llm: Source
    sizes: Sizes
    dtype: Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Backbones:
    """The frozen parts: those that come with the package, or made from a user's own files.

    Attributes:
        name: without `sources`, a folder of `SHIPPED`.
        digest: what must come out; None takes what there is.
    """

    name: str
    digest: str | None
    sources: Sources | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """How many scenes are drawn, and with which seed (`tinygptv_core/scenes`)."""

    seed: int
    pretraining_pictures: int
    instruction_pictures: int
    held_out_pictures: int

    def __post_init__(self) -> None:
        for name in ("pretraining_pictures", "instruction_pictures", "held_out_pictures"):
            require(getattr(self, name), name, at_least=1)

    @property
    def listed(self) -> Mapping[str, int]:
        """How many of the pictures of pre-training are on each list."""
        fewer = self.pretraining_pictures // 5
        return {"scenes_web": self.pretraining_pictures - fewer, "scenes_alt": fewer}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a row must be before anything is fetched for it.

    Attributes:
        min_words, max_words: of what the model is to say in it, all turns together.
        unique_urls: of equal URLs the first row that passes everything else stays.
        hosts: only these, and the hosts below them; empty for any.
        not_hosts: none of these, nor of the hosts below them.
        min_characters, max_characters: as for words; None for any number.
        min_side, max_aspect: of the picture, where the list says its size, in pixels; aspect = longer / shorter.
        languages: what is said is in one of these (ISO 639-1: "en"); empty for any. A statistical guess, which is often
            wrong for fewer than five words, and slow.
        unique_captions: the same as `unique_urls`, of what is said.
    """

    schemes: tuple[str, ...]
    min_words: int
    max_words: int
    unique_urls: bool
    hosts: tuple[str, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)
    not_hosts: tuple[str, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)
    min_characters: int = field(default=0, metadata=IDENTITY_UNLESS_DEFAULT)
    max_characters: int | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    min_side: int = field(default=1, metadata=IDENTITY_UNLESS_DEFAULT)
    max_aspect: float | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    languages: tuple[str, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)
    unique_captions: bool = field(default=False, metadata=IDENTITY_UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        require(self.min_words, "min_words", at_least=0)
        require(self.max_words, "max_words", at_least=self.min_words)
        require(self.min_characters, "min_characters", at_least=0)
        require(self.min_side, "min_side", at_least=1)
        if self.max_characters is not None:
            require(self.max_characters, "max_characters", at_least=self.min_characters)
        if self.max_aspect is not None:
            require(self.max_aspect, "max_aspect", at_least=1)


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How pictures are got, and how many.

    Attributes:
        image_size: side of the stored square in pixels; None keeps each picture as it came.
        resize_mode: as in img2dataset: "border" keeps the ratio and pads with white.
        timeout_seconds: the most without an answer; `total_seconds`: the most for a picture with its redirects.
        segment_rows: a list is fetched by segments of at most so many rows, and of at least half as many.
        seed: of the order in which a list's rows are taken.
        wanted: so many pictures; None: as many as the stages draw.
        per_host: the most requests to one host at a time, of all processes together, a Ray cluster's too.
        min_success: a fetch stops when a smaller share of the last rows gave a picture (0..1; 0: never).
    """

    image_size: int | None
    resize_mode: Literal["border", "keep_ratio", "center_crop"]
    timeout_seconds: int
    total_seconds: int
    max_bytes: int
    samples_per_shard: int
    segment_rows: int = field(default=10_000, metadata=IDENTITY_UNLESS_DEFAULT)
    seed: int = field(default=0, metadata=IDENTITY_UNLESS_DEFAULT)
    wanted: int | None = field(default=None, metadata=NOT_IDENTITY)  # what comes of it is in the step's own request
    per_host: int = field(default=16, metadata=NOT_IDENTITY)
    min_success: float = field(default=0.01, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        positive = ("timeout_seconds", "total_seconds", "max_bytes", "samples_per_shard", "segment_rows", "per_host")
        for name in positive:
            require(getattr(self, name), name, at_least=1)
        for name in ("image_size", "wanted"):
            if getattr(self, name) is not None:
                require(getattr(self, name), name, at_least=1)
        if not 0 <= self.min_success < 1:
            raise ConfigError(f"min_success is {self.min_success}; it must lie in 0..1, 1 excluded")


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A user's own function that gives each picture, with what is said of it, a number (docs/adding.md).

    Attributes:
        file: the Python file that has it. Its bytes bear on the scores, its place does not.
        name: the function's name in it.
        version: what else the scores depend on, such as the weights that the function loads.
        at_least, at_most: the scores that a sample stays with; None does not bound them.
        batch: how many samples the function is given at once.
    """

    file: str = field(metadata=NOT_IDENTITY)
    name: str
    version: str = ""
    at_least: float | None = None
    at_most: float | None = None
    batch: int = field(default=64, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require(self.batch, "batch", at_least=1)
        if not self.name.isidentifier():
            raise ConfigError(f"name is {self.name!r}; it must be that of a function in {self.file}")
        if self.at_least is None and self.at_most is None:
            raise ConfigError(f"neither at_least nor at_most of {self.name} is set, so it would drop nothing")


MAX_HASH_BITS = 10
"""Of the 64 bits of a perceptual hash so many may differ at most: beyond it, pictures that differ begin to match."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What a fetched picture must be. Sides in pixels of the original; aspect = longer / shorter.

    Attributes:
        near_duplicate_bits: a picture goes whose perceptual hash differs in at most so many of its 64 bits from that
            of one that stays: an earlier one, or one of an earlier data set with this rule. None: no such rule.
        evaluation_bits: the same for the pictures that an evaluation of the preset asks about. The data sets of the
            evaluations themselves are not held against them. None: no such rule.
        removal_bits: the same for the hashes of the removal lists; without such lists it does nothing.
        scorers: functions of the user's, whose scores must be within their bounds.
    """

    min_side: int
    max_aspect: float
    unique_bytes: bool
    near_duplicate_bits: int | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    evaluation_bits: int | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    removal_bits: int = field(default=4, metadata=IDENTITY_UNLESS_DEFAULT)
    scorers: tuple[Scorer, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        require(self.min_side, "min_side", at_least=1)
        require(self.max_aspect, "max_aspect", at_least=1)
        for name in ("near_duplicate_bits", "evaluation_bits", "removal_bits"):
            bits = getattr(self, name)
            if bits is not None and not 0 <= bits <= MAX_HASH_BITS:
                raise ConfigError(f"{name} is {bits}; it must lie in 0..{MAX_HASH_BITS} (of 64 bits)")
        names = [scorer.name for scorer in self.scorers]
        if len(set(names)) < len(names):
            raise ConfigError(f"scorers are {', '.join(names)}; no two may have one name")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The settings of one data set; its form is in `data_recipes/<name>.py`.

    Attributes:
        cached_vision: whether its pictures' vision tokens are kept, which is worth the disk where pictures are read
            more than once; `auto` where that is known of the preset (`flows/vision_cache.py`).
    """

    filter: Filter
    fetch: Fetch
    screen: Screen
    cached_vision: Literal["auto", "on", "off"] = field(default="auto", metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A whole run.

    Attributes:
        about: what it is, for those who choose one.
        data: every data set that a stage draws from or an evaluation reads.
        options: where and how it runs, as long as `--option` does not say otherwise.
    """

    name: str
    about: str = field(metadata=NOT_IDENTITY)
    scenes: Scenes | None
    backbones: Backbones
    data: Mapping[str, DataSettings]
    stages: tuple[Stage, ...]
    model_name: str = field(metadata=NOT_IDENTITY)
    options: RunOptions = field(metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"stages are {', '.join(names) or 'none'}; there must be one, and no two of one name")
        for stage in self.stages:
            if not stage.evals:
                raise ConfigError(f"{stage.name}.evals is empty; a stage is scored on one evaluation at least")
            read = {*stage.mix, *(evals.load(name).dataset for name in stage.evals)}
            if missing := sorted(read - self.data.keys()):
                raise ConfigError(f"{stage.name}: " + unknown("data set ", missing[0], list(self.data)))
        if len({stage.without for stage in self.stages}) > 1:
            told = "; ".join(f"{stage.name}: {', '.join(stage.without) or 'none'}" for stage in self.stages)
            raise ConfigError(f"the stages are without different norms ({told}); they train one model: set all alike")


TWO_CORES = RunOptions(
    processes=2,
    threads=1,
    device="cpu",
    loader_workers=0,
    micro_batch=None,
    log_every_steps=5,
    save_every_steps=25,
)
# With this the paper's stages take at most 19 GiB: the longest answers of stage 4, two at once (docs/speed.md).
ONE_GPU = RunOptions(
    processes=1,
    threads=4,
    device="cuda",
    loader_workers=4,
    micro_batch=32,
    log_every_steps=10,
    save_every_steps=200,
)

PRETRAINING = DataSettings(
    filter=Filter(schemes=("http", "https"), min_words=1, max_words=50, unique_urls=True),
    fetch=Fetch(
        image_size=224,
        resize_mode="border",
        timeout_seconds=10,
        total_seconds=30,
        max_bytes=20_000_000,
        samples_per_shard=10_000,
    ),
    screen=Screen(min_side=32, max_aspect=3.0, unique_bytes=True, near_duplicate_bits=4, evaluation_bits=4),
)
# Annotations may repeat a picture, and its size is the annotator's business; only what cannot be read goes.
INSTRUCTION = replace(
    PRETRAINING,
    filter=replace(PRETRAINING.filter, min_words=0, max_words=1_000_000, unique_urls=False),
    fetch=replace(PRETRAINING.fetch, image_size=None),
    screen=Screen(min_side=1, max_aspect=1_000_000.0, unique_bytes=False),
)
# Scenes are near-duplicates of each other by construction: a few shapes on one ground.
NANO_PRETRAINING = replace(
    PRETRAINING,
    fetch=replace(PRETRAINING.fetch, image_size=64, timeout_seconds=2, total_seconds=5, samples_per_shard=1_000),
    screen=replace(PRETRAINING.screen, near_duplicate_bits=None, evaluation_bits=None),
)

NANO = Preset(
    name="nano",
    about="The same architecture and code at toy size, on scenes that the project draws: minutes, and no download.",
    scenes=Scenes(seed=7, pretraining_pictures=3_000, instruction_pictures=4_000, held_out_pictures=500),
    backbones=Backbones(name="nano", digest="1a729920822689e71ddda6c91a4fbd8fc9e27407cc08e68a6617c4448c61425c"),
    data={
        "scenes_web": NANO_PRETRAINING,
        "scenes_alt": NANO_PRETRAINING,
        "scenes_detail": INSTRUCTION,
        "scenes_vqa": INSTRUCTION,
        "scenes_refer": INSTRUCTION,
        "scenes_identify": INSTRUCTION,
        "scenes_caption": INSTRUCTION,
        "scenes_grounding": INSTRUCTION,
        "scenes_conversation": INSTRUCTION,
        "scenes_text": INSTRUCTION,
        "scenes_test": INSTRUCTION,
    },
    stages=NANO_STAGES,
    model_name="tinygptv",
    options=TWO_CORES,
)
UNSET = Source(path=None, pins={})
PAPER_BACKBONES = Backbones(
    name="paper",
    digest=None,
    sources=Sources(vision=UNSET, qformer=UNSET, llm=UNSET, sizes=PAPER_SIZES, dtype="float16"),
)
"""EVA-CLIP's ViT-g/14, the Q-Former of BLIP-2 with FlanT5-XXL, and Phi-2, from files that the user names."""

PAPER = Preset(
    name="paper",
    about="TinyGPT-V as the paper has it, from one GPU of 24 GB on, with its repository's mistakes mended.",
    scenes=None,
    backbones=PAPER_BACKBONES,
    data={
        **{name: PRETRAINING for name in ("laion", "cc_sbu")},
        **{name: INSTRUCTION for stage in PAPER_STAGES[2:] for name in stage.mix},
        **{evals.load(name).dataset: INSTRUCTION for name in PAPER_EVALS},
    },
    stages=PAPER_STAGES,
    model_name="tinygptv-paper",
    options=replace(ONE_GPU, packed=True),
)
SMALL = Preset(
    name="small",
    about="The paper's model on one GPU of 24 GB in an hour or so: a fortieth of its pre-training, then talks of COCO.",
    scenes=None,
    backbones=PAPER_BACKBONES,
    data={
        # Stage 2 reads what stage 1 has read, so that half of the tower's work is saved.
        "cc_sbu": replace(
            PRETRAINING, fetch=replace(PRETRAINING.fetch, wanted=samples_wanted(SMALL_STAGES[:1], "cc_sbu"))
        ),
        **{name: INSTRUCTION for stage in SMALL_STAGES[2:] for name in stage.mix},
        **{evals.load(name).dataset: INSTRUCTION for name in SMALL_EVALS},
    },
    stages=SMALL_STAGES,
    model_name="tinygptv-small",
    # Talks differ in length: without padding the longest does not decide what a micro-batch takes, 20 GiB at most.
    options=replace(ONE_GPU, micro_batch=8, packed=True, save_every_steps=50),
)


def variant(preset: Preset, name: str, about: str, *stages: Stage) -> Preset:
    """`preset` with `stages` in the place of its own of their names.

    It has a name of its own, as a preset, as an experiment of MLflow's and in the registry.
    """
    own = {stage.name: stage for stage in stages}
    return replace(
        preset,
        name=name,
        about=about,
        stages=tuple(own.get(stage.name, stage) for stage in preset.stages),
        model_name=f"tinygptv-{name.replace('_', '-')}",
    )


Part = Norm | Literal["lora"]
PARTS: Mapping[Part, str] = {
    "qk_norm": "the norms on queries and keys",
    "rms_norm": "the norm on what attention gives",
    "input_norm": "the norm on what comes into a layer",
    "lora": "adapters",
}
"""What the paper's ablations leave out, in every stage."""


def without(preset: Preset, part: Part) -> Preset:
    """The variant PRESET_no_PART: `preset` with one of `PARTS` left out of the language model."""
    change: Mapping[str, Any] = {"lora": None} if part == "lora" else {"without": (part,)}
    stages = [replace(stage, **change) for stage in preset.stages]
    return variant(preset, f"{preset.name}_no_{part}", f"Ablation of {preset.name}: without {PARTS[part]}.", *stages)


PAPER_1, PAPER_2, _, PAPER_4 = PAPER_STAGES
AS_PUBLISHED = variant(
    PAPER,
    "as_published",
    "What the public repository runs, mistakes and all, where its weights depend on them.",
    *PUBLISHED_STAGES,
)
PAPER_17X5000 = variant(
    PAPER,
    "paper_17x5000",
    "The paper's run with 17 x 5,000 steps of stage 1, as its repository says, instead of 17 x 1,000.",
    replace(PAPER_1, schedule=replace(PAPER_1.schedule, steps=17 * 5_000)),
)
PAPER_STAGE1_LORA = variant(
    PAPER,
    "paper_stage1_lora",
    "The paper's run with adapters from stage 1 on, which the repository has by mistake.",
    replace(PAPER_1, lora=PAPER_2.lora),
)
PAPER_RISING_RATE = variant(
    PAPER,
    "paper_rising_rate",
    "The paper's run with the repository's rate in stage 4, which rises to eight times its peak.",
    replace(PAPER_4, schedule=PUBLISHED_STAGES[3].schedule),
)
PAPER_NO_QK_NORM = without(PAPER, "qk_norm")
PAPER_NO_RMS_NORM = without(PAPER, "rms_norm")
PAPER_NO_INPUT_NORM = without(PAPER, "input_norm")
PAPER_NO_LORA = without(PAPER, "lora")

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        NANO,
        SMALL,
        PAPER,
        AS_PUBLISHED,
        PAPER_17X5000,
        PAPER_STAGE1_LORA,
        PAPER_RISING_RATE,
        PAPER_NO_QK_NORM,
        PAPER_NO_RMS_NORM,
        PAPER_NO_INPUT_NORM,
        PAPER_NO_LORA,
    )
}


def named(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ConfigError: there is none; says which there are.
    """
    if name not in PRESETS:
        raise ConfigError(unknown("preset ", name, list(PRESETS)))
    return PRESETS[name]


def changed(preset: Preset, settings: Sequence[str]) -> Preset:
    """`preset` with every `dotted.name=value` of `settings` set. `stage3` is short for `stages.stage3`.

    Raises:
        ConfigError: a setting is not of that form, names nothing, or has a value of the wrong type or range.
    """
    stages = {stage.name for stage in preset.stages}
    values: dict[str, str] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: it must read NAME=VALUE, as in stage3.schedule.peak=2e-5")
        values[f"stages.{name}" if name.split(".")[0] in stages else name] = text
    return change(preset, values)


def starting_at(preset: Preset, stage: str) -> Preset:
    """`preset` without the stages before `stage`.

    Raises:
        ConfigError: it has no such stage.
    """
    names = [item.name for item in preset.stages]
    if stage not in names:
        raise ConfigError(unknown("stage ", stage, names))
    return replace(preset, stages=preset.stages[names.index(stage) :])


def with_list(preset: Preset) -> Preset:
    """`preset` with the user's own list, as data set `list`, in place of its pre-training lists.

    The pre-training lists are those of the stages that ask no question.
    """
    return _with(preset, "list", [stage for stage in preset.stages if stage.prompt_template is None])


def with_instruct(preset: Preset) -> Preset:
    """`preset` with the user's own talks, as data set `instruct`, in place of what its instruction stages draw from.

    Instruction stages are those that ask questions. What only evaluations read stays.
    """
    return _with(preset, "instruct", [stage for stage in preset.stages if stage.prompt_template is not None])


def _with(preset: Preset, name: str, asked: Sequence[Stage]) -> Preset:
    """`preset` whose stages that draw from the data sets of `asked` draw from `name` alone."""
    replaced = {drawn for stage in asked for drawn in stage.mix}
    if not replaced:
        raise ConfigError(f"the preset {preset.name} has no stage that would draw from {name}")
    settings = next(preset.data[drawn] for drawn in preset.data if drawn in replaced)
    stages = tuple(
        replace(stage, mix={name: Share(weight=1, batch=max(share.batch for share in stage.mix.values()))})
        if set(stage.mix) & replaced
        else stage
        for stage in preset.stages
    )
    scored = {evals.load(asked).dataset for stage in stages for asked in stage.evals}
    kept = {item: preset.data[item] for item in preset.data if item not in replaced or item in scored}
    return replace(preset, data={name: settings, **kept}, stages=stages)
