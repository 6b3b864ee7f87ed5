"""What a person fills in, in Prefect's interface or over its REST API, and the choice that it makes.

Prefect builds the form from these types and refuses what does not fit them before a run exists: every name is
checked (`extra="forbid"`), every number has its range, and presets, stages, data sets and evaluations are closed lists.
A file of the user's own is no preset here, for it would be code from outside.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model

from flows.choosing.choice import DEFAULT_RULE, Choice, check_reads, default_data
from flows.home import default_home
from tasks.promote import Rule
from tinygptv_core import evals
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import PRESETS, Preset, named, with_instruct, with_list

AS_NEEDED = "what is not there yet"
EVERY_STEP = "every step"
ALL = "all"
STOP_SECONDS = 8
"""What a training has to save itself in: Prefect kills a run 30 seconds after it was told to end."""

STAGES = tuple(dict.fromkeys(stage.name for preset in PRESETS.values() for stage in preset.stages))
STEPS = tuple(f"{stage}/{work}" for stage in STAGES for work in ("train", "evaluate"))


class OneOf:
    """Marks a text that is one of these: a drop-down in the form."""

    def __init__(self, *names: str) -> None:
        self._names = tuple(dict.fromkeys(names))

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> Any:
        return handler(Literal[self._names])


PresetName = Annotated[str, OneOf(*PRESETS)]
StageName = Annotated[str, OneOf(*STAGES)]
StartFrom = Annotated[str, OneOf(AS_NEEDED, *STAGES, *STEPS, "register")]
Only = Annotated[str, OneOf(EVERY_STEP, *STEPS, "register")]
DatasetName = Annotated[str, OneOf(ALL, *(name for preset in PRESETS.values() for name in preset.data))]
Evaluation = Annotated[str, OneOf(*evals.names())]


class Form(BaseModel):
    """A group of the form. A name that it does not have is refused."""

    model_config = ConfigDict(extra="forbid")


def _none(description: str, **bounds: Any) -> Any:
    """A field that is None unless it is filled in."""
    return Field(default=None, description=description, **bounds)


def _several(description: str) -> Any:
    return Field(default_factory=list, description=description)


# A run works in a folder of its own, where a relative path would mean nothing; a comma parts lists.
ListName = Annotated[str, Field(pattern=r"^(/|~/|[a-z0-9+]+://)[^,]*$")]
AbsolutePath = Annotated[str, Field(pattern="^(/|~/)")]


class Data(Form):
    """Your own data in place of the preset's, and data to leave out."""

    lists: list[ListName] = _several(
        "Your own lists of images (url, caption) in place of the pre-training lists: absolute paths or addresses; "
        "a comma in an address is written %2C"
    )
    allow_hosts: list[str] = _several("Hosts to fetch from although their address is not public")
    removal_list: AbsolutePath | None = _none("The absolute path of a file of URLs, hosts or image hashes to leave out")
    instruct: ListName | None = _none(
        "Your own conversations about images, in LLaVA's JSON format, in place of the data of the instruction stages: "
        "an absolute path or an address"
    )
    images: AbsolutePath | None = _none("The absolute path of the folder of the images that `instruct` names")
    downloads: AbsolutePath | None = Field(
        default_factory=default_data, description="The absolute path of the folder of what you downloaded by hand"
    )


class StageChanges(Form):
    """Changes to a stage. None keeps the preset's value."""

    steps: int | None = _none("Optimizer steps", ge=1, le=10_000_000)
    peak_rate: float | None = _none("The highest learning rate", gt=0, le=1)
    end_rate: float | None = _none("The learning rate at the end; not above the peak", ge=0, le=1)
    warmup_steps: int | None = _none("Warm-up steps, at most all steps", ge=0, le=10_000_000)
    batch: int | None = _none("The batch size, for each data set of the stage", ge=1, le=65_536)
    lora_rank: int | None = _none("For a stage with LoRA adapters: one rank for all of them", ge=1, le=4_096)


class Machine(Form):
    """Where and how training runs. This rebuilds nothing; None keeps the preset's value."""

    device: Literal["cpu", "cuda"] | None = _none("cuda takes a GPU for each process")
    processes: int | None = _none("Training processes; the batch is split among them", ge=1, le=4_096)
    micro_batch: int | None = _none("The most samples in one forward pass", ge=1, le=65_536)
    gradient_checkpointing: bool | None = _none("Less memory for about a third more time")
    packed: bool | None = _none("No padding: faster the more the lengths of the texts differ")
    loader_workers: int | None = _none("Loader processes for each training process", ge=0, le=256)
    ray_address: str | None = _none("The address of a running Ray cluster; None starts one on this machine")


def changes_of(stages: Iterable[str]) -> type[Form]:
    """A group with a field for each of these stages."""
    fields: dict[str, Any] = {name: (StageChanges, StageChanges()) for name in stages}
    return create_model("StagesChanges", __base__=Form, **fields)


class Changes(changes_of(STAGES)):
    """Changes to the preset, stage by stage."""

    evaluations: list[Evaluation] = _several("Score every stage on these; none keeps the preset's")
    settings: list[str] = _several("Any other value of the preset, as NAME=VALUE: data.laion.filter.max_words=40")


class Registering(Form):
    """How the model is registered."""

    promote: Rule = Field(
        default=DEFAULT_RULE,
        description="When the new version becomes the champion. never; first: if there is none; better: also if its "
        "mean score, on the same questions, is lower on no evaluation and higher on at least one, which may be chance",
    )
    bundle: bool = Field(
        default=False, description="Store a copy of the frozen backbones with the version, not only a reference"
    )


class Filled(NamedTuple):
    """The groups of the form, as they were filled in."""

    data: Data
    changes: Changes
    machine: Machine
    registering: Registering = Registering()


def choice_of(
    preset: str,
    filled: Filled,
    *,
    only: str | None = None,
    start_from: str | None = None,
    until: tuple[str, ...] = (),
) -> Choice:
    """What the filled-in form asks for, as the command's options would say it.

    Raises:
        ConfigError: a change is of something that the preset's stage does not have.
    """
    data, changes, machine, registering = filled
    return Choice(
        preset=preset,
        settings=(*_settings(_with_own(named(preset), data), changes), *changes.settings),
        only=only,
        start_from=start_from,
        until=until,
        list_file=",".join(data.lists) or None,
        removal_list=data.removal_list,
        instruct=data.instruct,
        images=data.images,
        data=data.downloads,
        allow_hosts=tuple(data.allow_hosts),
        home=default_home(),
        ray_address=machine.ray_address,
        init=None,
        options=tuple(_options(machine)),
        promote=registering.promote,
        bundle=registering.bundle,
    )


def ends_before(preset: str, first: str, last: str) -> bool:
    """Whether the preset has `last` before `first`, so that they are no range."""
    stages = [stage.name for stage in named(preset).stages]
    return {first, last} <= set(stages) and stages.index(last) < stages.index(first)


def datasets_of(preset: str, data: Data, name: str) -> tuple[str, ...]:
    """The steps that end the data sets which `name` means: one, or all of the preset.

    Raises:
        ConfigError: the preset has no such data set.
    """
    of = _with_own(named(preset), data)
    if name != ALL:
        check_reads(of, name)
    return tuple(f"{one}/screen" for one in (of.data if name == ALL else (name,)))


def _with_own(preset: Preset, data: Data) -> Preset:
    preset = with_list(preset) if data.lists else preset
    return with_instruct(preset) if data.instruct else preset


def _settings(preset: Preset, changes: Changes) -> list[str]:
    found: list[str] = []
    stages = {stage.name: stage for stage in preset.stages}
    for name in STAGES:
        changed: StageChanges = getattr(changes, name)
        asked = changed.model_dump(exclude_none=True)
        if asked and name not in stages:
            raise ConfigError(f"the preset {preset.name} has no {name}. It has: {', '.join(stages)}.")
        for field, value in asked.items():
            found += [f"{name}.{place}={json.dumps(value)}" for place in _places(field, stages[name].mix)]
    if changes.evaluations:
        found += [f"{name}.evals={json.dumps(changes.evaluations)}" for name in stages]
    return found


def _places(field: str, mix: Iterable[str]) -> list[str]:
    """Where in a stage the field of the form is."""
    one = {"steps": "schedule.steps", "peak_rate": "schedule.peak", "end_rate": "schedule.end"}
    one |= {"warmup_steps": "schedule.warmup_steps", "lora_rank": "lora.rank"}
    return [f"mix.{name}.batch" for name in mix] if field == "batch" else [one[field]]


def _options(machine: Machine) -> list[str]:
    asked: dict[str, Any] = machine.model_dump(exclude_none=True, exclude={"ray_address"})
    asked["stop_seconds"] = STOP_SECONDS
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in asked.items()]
