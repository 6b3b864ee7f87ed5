"""What a person asks for, from the command line or a form, made into steps; every mistake is found here."""

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flows.choosing.fitting import check_given, check_pictures, lacking
from flows.choosing.preset_files import preset_in
from flows.data import INSTRUCT, LIST
from flows.home import check_folder, check_writable, default_home, tracking_uri
from flows.pipeline import steps
from flows.plan import Planned, Selection, check_present, given, plan, select
from flows.recipes import recipe, recipes
from flows.run_environment import RunEnvironment
from flows.terminal import Terminal
from flows.vision_cache import with_cache_advice
from tasks.backbones_import import shipped
from tasks.fetch import FetchOptions
from tasks.filtering.removals import read_removals
from tasks.promote import Rule
from tasks.reading.list_files import is_far, lists_named, state_of
from tasks.registering.registry import names
from tasks.screen import SCREEN
from tasks.train import TRAIN
from tasks.training.cluster import check_answers
from tasks.typed_paths import typed_path
from tinygptv_core.plain import ConfigError, change, nearest, pairs_of
from tinygptv_core.presets import Preset, named, starting_at, with_instruct, with_list, with_settings
from tinygptv_core.run import RunOptions

DEFAULT_PRESET = "nano"
DEFAULT_RULE: Rule = "first"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The command's options, as typed. `until` walks to these steps and no further (`tinygptv data`, `train`)."""

    preset: str
    settings: tuple[str, ...]
    only: str | None
    start_from: str | None
    until: tuple[str, ...]
    list_file: str | None
    removal_list: str | None
    instruct: str | None
    images: str | None
    data: str | None
    allow_hosts: tuple[str, ...]
    home: Path
    ray_address: str | None
    init: str | None
    options: tuple[str, ...]
    promote: Rule
    bundle: bool


class Init(NamedTuple):
    """The checkpoint that a run begins with, and the stage whose it is."""

    stage: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can begin."""

    preset: Preset
    environment: RunEnvironment
    terminal: Terminal
    selection: Selection
    planned: tuple[Planned, ...]


def prepare(choice: Choice, *, writes: bool) -> Prepared:
    """Everything about a run that can be known before it begins.

    Args:
        writes: the run will write to its home, so it must be able to.

    Raises:
        ConfigError: something the person can mend: an unknown name, a wrong value, a list that cannot be read ...
    """
    init = _init(choice.init)
    preset, listed = _preset(choice, init), _listed(choice)
    options = change(preset.options, dict(pairs_of(choice.options, "--option", "micro_batch=8")))
    check_folder(choice.home)
    if writes:
        check_writable(choice.home)
    terminal = Terminal()
    environment = _environment(choice, preset, listed, options, terminal)
    selection = _selection(choice, preset, environment, init)
    planned = with_cache_advice(preset, plan(environment.store, selection))
    if writes:
        _check_complete(preset, environment, selection, planned)
    check_present(selection, planned, typed(choice))
    if writes and choice.ray_address and any(item.action == "build" for item in planned):
        check_answers(choice.ray_address)  # now, not when a step that comes late needs it
    if any(item.step == "register" and item.action == "build" for item in planned):
        names(environment.tracking_uri)  # a registry that does not answer is found now, not after the training
    return Prepared(preset=preset, environment=environment, terminal=terminal, selection=selection, planned=planned)


def _init(text: str | None) -> Init | None:
    """That of `--init stage2=DIGEST`."""
    if text is None:
        return None
    stage, _, digest = text.partition("=")
    if not (stage and digest):
        raise ConfigError(
            f"--init {text}: it must read STAGE=DIGEST, as in stage2=9c41d0b2aa17.\n"
            "  tinygptv weights import checkpoint FILE --stage stage2 ends with it"
        )
    return Init(stage, digest)


def _preset(choice: Choice, init: Init | None) -> Preset:
    """What is to be run: the preset with the user's own data and settings, from the stage on that is begun with."""
    preset = with_settings(_with_own(preset_named(choice.preset), choice), choice.settings)
    return starting_at(preset, init.stage) if init else preset


def _environment(
    choice: Choice, preset: Preset, listed: Mapping[str, int], options: RunOptions, terminal: Terminal
) -> RunEnvironment:
    """Where and how it is to be run."""
    return RunEnvironment(
        home=choice.home,
        fetching=_fetching(choice, options),
        own_lists={name: lists_named(typed) for name, typed in _own(choice).items()},
        listed=listed,
        removal_list=_removal_list(choice.removal_list),
        images=typed_path(choice.images) if choice.images else None,
        data=_folder("--data", choice.data) if choice.data else None,
        ray_address=choice.ray_address,
        tracking_uri=tracking_uri(choice.home),
        experiment=preset.name,
        options=options,
        promote=choice.promote,
        bundle=choice.bundle,
        run=_new_run(),
        progress=terminal.progress,
    )


def _selection(choice: Choice, preset: Preset, environment: RunEnvironment, init: Init | None) -> Selection:
    """The steps of the run, and which of them are walked."""
    _check_until(choice, preset)
    if preset.backbones.sources is None:
        shipped(preset.backbones)
    check_pictures(preset)
    requests = steps(preset, environment, init.stage if init else None)
    if init:
        checkpoint = environment.store.sealed.find("checkpoint", init.digest)
        check_given(preset, checkpoint)
        requests = given(requests, f"{init.stage}/train", checkpoint)
    return select(requests, only=choice.only, start_from=choice.start_from, until=choice.until)


def _check_until(choice: Choice, preset: Preset) -> None:
    """Refuse a data set or a stage that the preset has not: of all its steps' names none would help."""
    stages = [stage.name for stage in preset.stages]
    for name, _, work in (step.partition("/") for step in choice.until):
        if work == SCREEN.name:
            check_reads(preset, name)
        if work == TRAIN.name and name not in stages:
            there = f"{nearest(name, stages)}It has: {', '.join(stages)}."
            raise ConfigError(f"the preset {preset.name} has no {name}. {there}")


def check_reads(preset: Preset, name: str) -> None:
    """Refuse a data set that the preset does not read.

    Raises:
        ConfigError: it does not; says which it reads, and whether there is a recipe of that name.
    """
    if name in preset.data:
        return
    there = list(preset.data)
    told = f"the preset {preset.name} reads no data set {name}. {nearest(name, there)}It reads: {', '.join(there)}."
    if name in recipes():
        told += f"\n  there is a recipe {name}; the preset {preset.name} has no settings for it (docs/adding.md)"
    raise ConfigError(told)


def _check_complete(
    preset: Preset, environment: RunEnvironment, selection: Selection, planned: Sequence[Planned]
) -> None:
    """Refuse a run that lacks files of the user's, hosts that it may fetch from, or a device."""
    if lacks := lacking(preset, environment, selection, planned, at_once=False):
        raise ConfigError("\n".join(lacks))


def preset_named(name: str) -> Preset:
    """One of the project's presets, or `FILE.py:NAME`.

    Raises:
        ConfigError: there is none of that name.
    """
    path, colon, inside = name.partition(":")
    return preset_in(Path(path), inside) if colon or name.endswith(".py") else named(name)


def typed(choice: Choice) -> list[str]:
    """The options of `choice` that say what is built and where, as a person types them; what is usual is left out."""
    chosen: list[tuple[str, str | Path | None, str | Path | None]] = [
        ("--preset", choice.preset, DEFAULT_PRESET),
        ("--list", choice.list_file, None),
        ("--removal-list", choice.removal_list, None),
        ("--instruct", choice.instruct, None),
        ("--images", choice.images, None),
        ("--data", choice.data, default_data()),
        ("--home", choice.home, default_home()),
        ("--init", choice.init, None),
        ("--ray-address", choice.ray_address, None),
        ("--promote", choice.promote, DEFAULT_RULE),
        *(("--set", setting, None) for setting in choice.settings),
        *(("--allow-host", host, None) for host in choice.allow_hosts),
        *(("--option", option, None) for option in choice.options),
    ]
    words = [word for name, value, usual in chosen if value not in (None, usual) for word in (name, str(value))]
    return [*words, *(["--bundle"] if choice.bundle else [])]


def default_data() -> str | None:
    """The folder of the user's own files, where no option names one."""
    named = os.environ.get("TINYGPTV_DATA")
    return str(typed_path(named)) if named else None


def _own(choice: Choice) -> dict[str, str]:
    """Data set -> the user's file in its place."""
    named = {LIST: choice.list_file, INSTRUCT: choice.instruct}
    return {name: typed for name, typed in named.items() if typed is not None}


def _with_own(preset: Preset, choice: Choice) -> Preset:
    """`preset` with the user's own lists and conversations."""
    for name in _own(choice):
        preset = with_list(preset) if name == LIST else with_instruct(preset)
    return preset


def _listed(choice: Choice) -> dict[str, int]:
    """How many records the user's own files hold, which are looked at; not of those that are not read to their end.

    Raises:
        ConfigError: a file or folder is not there, or holds no such records.
    """
    from tasks.rows import CHECKED_RECORDS, check_list

    if (choice.instruct is None) != (choice.images is None):
        raise ConfigError(
            "--instruct FILE and --images DIR go together: the conversations, and the folder of their images"
        )
    listed: dict[str, int] = {}
    for name, typed in _own(choice).items():
        lists = lists_named(typed)
        for one in filter(is_far, lists):
            state_of(one)
        counts = [check_list(Path(one), recipe(name)) for one in lists if not is_far(one)]
        if len(counts) == len(lists) and max(counts) < CHECKED_RECORDS:
            listed[name] = sum(counts)
    if choice.images is not None:
        _folder("--images", choice.images)
    return listed


def _removal_list(typed: str | None) -> Path | None:
    if typed is None:
        return None
    read_removals(typed_path(typed))
    return typed_path(typed)


def _folder(option: str, typed: str) -> Path:
    """The folder that an option names.

    Raises:
        ConfigError: it is none.
    """
    if not typed_path(typed).is_dir():
        raise ConfigError(f"{option} {typed}: there is no folder {typed_path(typed)}")
    return typed_path(typed)


def _fetching(choice: Choice, options: RunOptions) -> FetchOptions:
    """Threads wait for the network, not for a core. The progress and hosts of a data set are set by its step."""
    return FetchOptions(
        allow_hosts=choice.allow_hosts,
        hosts={},
        processes=options.cores,
        threads=16,
        ray_address=choice.ray_address,
        progress=lambda done, total, text: None,
    )


def _new_run() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
