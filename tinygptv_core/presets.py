"""Whole runs as data: backbones, data sets, stages and evaluations under one name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Literal, get_args

from tinygptv_core import evals
from tinygptv_core.plain import NOT_IDENTITY, ConfigError, change, names_ending, pairs_of, plain, unknown
from tinygptv_core.run import RunOptions
from tinygptv_core.settings import (
    BackboneSettings,
    BackboneSources,
    DataSettings,
    Fetch,
    Filter,
    Scenes,
    Screen,
    Source,
)
from tinygptv_core.sizes import PAPER_SIZES
from tinygptv_core.stage import Norm, Share, Stage, check_adapters, samples_wanted
from tinygptv_core.stages import NANO_STAGES, PAPER_EVALS, PAPER_STAGES, PUBLISHED_STAGES, SMALL_EVALS, SMALL_STAGES

BAD_IN_NAMES = frozenset("/:.%\"'@")
"""What MLflow takes in no model's name, and `@`, behind which an alias stands."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A whole run.

    Attributes:
        about: what it is, for those who choose one.
        data: every data set that a stage draws from or an evaluation reads.
        options: where and how it runs, as long as `--option` does not say otherwise.
        checkpoint_pins: stage -> file name -> the SHA-256 that a file must have which is imported as what the stage
            trained, in hex; files that are not named here may have any.
    """

    name: str
    about: str = field(metadata=NOT_IDENTITY)
    scenes: Scenes | None
    backbones: BackboneSettings
    data: Mapping[str, DataSettings]
    stages: tuple[Stage, ...]
    model_name: str = field(metadata=NOT_IDENTITY)
    options: RunOptions = field(metadata=NOT_IDENTITY)
    checkpoint_pins: Mapping[str, Mapping[str, str]] = field(default_factory=dict, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"stages are {', '.join(names) or 'none'}; there must be one, and no two of one name")
        if missing := sorted(self.checkpoint_pins.keys() - set(names)):
            raise ConfigError("checkpoint_pins: " + unknown("stage ", missing[0], names))
        for stage in self.stages:
            if not stage.evals:
                raise ConfigError(f"{stage.name}.evals is empty; a stage is scored on one evaluation at least")
            read = {*stage.mix, *(evals.load(name).dataset for name in stage.evals)}
            if missing := sorted(read - self.data.keys()):
                raise ConfigError(f"{stage.name}: " + unknown("data set ", missing[0], list(self.data)))
        self._check_model_name()
        self._check_evaluations()
        if len({stage.without for stage in self.stages}) > 1:
            told = "; ".join(f"{stage.name}: {', '.join(stage.without) or 'none'}" for stage in self.stages)
            raise ConfigError(f"the stages are without different norms ({told}); they train one model: set all alike")
        for earlier, stage in pairwise(self.stages):
            check_adapters(earlier.name, earlier.lora, stage)

    def _check_model_name(self) -> None:
        """Refuse what a registry would refuse after the training."""
        if not self.model_name.strip() or BAD_IN_NAMES & set(self.model_name):
            marks = " ".join(sorted(BAD_IN_NAMES))
            raise ConfigError(f"model_name is {self.model_name!r}; a registry takes none that is empty or has {marks}")

    def _check_evaluations(self) -> None:
        """Refuse to ask about what a stage or one before it was trained on: it draws from all splits of a data set."""
        drawn: dict[str, str] = {}
        for stage in self.stages:
            drawn |= {name: stage.name for name in stage.mix if name not in drawn}
            for name in stage.evals:
                if (asked := evals.load(name).dataset) in drawn:
                    raise ConfigError(
                        f"{stage.name}.evals has {name}, which asks {asked}, and {drawn[asked]} trains on that, on "
                        f"every split: it would score what was learnt by heart.\n"
                        f"  leave {asked} out of {drawn[asked]}.mix, or {name} out of {stage.name}.evals"
                    )


TWO_CORES = RunOptions(
    processes=2,
    threads=1,
    device="cpu",
    loader_workers=0,
    micro_batch=None,
    log_every_steps=5,
    save_every_steps=25,
)
# With this the paper's stages take at most 18 GiB: the longest answers of stage 4, two at once (docs/speed.md).
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
    backbones=BackboneSettings(name="nano", digest="1a729920822689e71ddda6c91a4fbd8fc9e27407cc08e68a6617c4448c61425c"),
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
PAPER_BACKBONES = BackboneSettings(
    name="paper",
    digest=None,
    sources=BackboneSources(vision=UNSET, qformer=UNSET, llm=UNSET, sizes=PAPER_SIZES, dtype="float16"),
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
    about="The paper's model on one GPU of 24 GB in an hour or so: a fortieth of its pre-training, then COCO tasks.",
    scenes=None,
    backbones=PAPER_BACKBONES,
    data={
        # Stage 2 reads what stage 1 has read, so that half of the tower's work is saved.
        "cc_sbu": replace(
            PRETRAINING, fetch=replace(PRETRAINING.fetch, wanted=samples_wanted(SMALL_STAGES[:1], "cc_sbu"))
        ),
        **{name: INSTRUCTION for stage in SMALL_STAGES[2:] for name in stage.mix},
        # They have pictures of val2014, which OK-VQA asks about.
        **dict.fromkeys(
            ("aok_vqa", "coco_caption"), replace(INSTRUCTION, screen=replace(INSTRUCTION.screen, evaluation_bits=4))
        ),
        **{evals.load(name).dataset: INSTRUCTION for name in SMALL_EVALS},
    },
    stages=SMALL_STAGES,
    model_name="tinygptv-small",
    # Lengths differ: without padding the longest conversation does not decide what a micro-batch takes, 19 GiB at most.
    options=replace(ONE_GPU, micro_batch=8, packed=True, save_every_steps=50),
)


def variant(preset: Preset, name: str, about: str, *stages: Stage) -> Preset:
    """`preset` with `stages` in the place of its own of their names; those of other names follow its last, in order.

    It has a name of its own, as a preset, as an experiment of MLflow's and in the registry.
    """
    return replace(
        preset,
        name=name,
        about=about,
        stages=tuple({stage.name: stage for stage in (*preset.stages, *stages)}.values()),
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
    """The variant PRESET_no_PART: `preset` with one more of `PARTS` left out of the language model."""
    stages = [
        replace(stage, lora=None)
        if part == "lora"
        else replace(stage, without=tuple(norm for norm in get_args(Norm) if norm in (*stage.without, part)))
        for stage in preset.stages
    ]
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


_STAGES = "stages."
"""How the names of settings of a stage begin; whoever types one leaves it out."""


def with_settings(preset: Preset, settings: Sequence[str]) -> Preset:
    """`preset` with every `dotted.name=value` of `settings` set. `stage3` is short for `stages.stage3`.

    Raises:
        ConfigError: a setting is not of that form, names nothing, or has a value of the wrong type or range.
    """
    stages, parts = {stage.name for stage in preset.stages}, {part.name for part in fields(preset)}
    values: dict[str, str] = {}
    for name, text in pairs_of(settings, "--set", "stage3.schedule.peak=2e-5"):
        head = name.split(".")[0]
        if head not in stages | parts:
            deeper = [found.removeprefix(_STAGES) for found in names_ending(plain(preset), name)]
            raise ConfigError(unknown("", head, sorted(stages) + sorted(parts - {"stages"}), deeper))
        values[f"{_STAGES}{name}" if head in stages else name] = text
    return change(preset, values, _STAGES)


def starting_at(preset: Preset, stage: str) -> Preset:
    """`preset` without the stages before `stage`.

    Raises:
        ConfigError: it has no such stage.
    """
    names = [item.name for item in preset.stages]
    if stage not in names:
        raise ConfigError(unknown("stage ", stage, names))
    kept = names[names.index(stage) :]
    pins = {name: pinned for name, pinned in preset.checkpoint_pins.items() if name in kept}
    return replace(preset, stages=preset.stages[-len(kept) :], checkpoint_pins=pins)


def with_list(preset: Preset) -> Preset:
    """`preset` with the user's own list, as data set `list`, in place of its pre-training lists.

    The pre-training lists are those of the stages that ask no question.
    """
    return _with(preset, "list", [stage for stage in preset.stages if stage.prompt_template is None])


def with_instruct(preset: Preset) -> Preset:
    """`preset` with the user's own conversations, as data set `instruct`, for its instruction stages.

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
