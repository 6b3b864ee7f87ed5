"""What a person asks for, from the command line or a form, made into steps; every mistake is found here."""

import importlib.util
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.data import INSTRUCT, LIST
from flows.pipeline import steps
from flows.place import Place
from flows.plan import Planned, Selection, check_present, given, lacking_files, plan, select
from flows.recipes import recipe
from flows.terminal import Terminal
from flows.vision_cache import with_cache_advice
from flows.who_is_up import up_on
from tasks.backbones_import import shipped
from tasks.fetch import FetchOptions
from tasks.list_files import is_far, lists_named, state_of
from tasks.promote import Rule
from tasks.registry import database_in, names
from tasks.removals import read_removals
from tasks.shortages import has_no_room
from tasks.typed_paths import typed_path
from tinygptv_core.plain import ConfigError, change, pairs_of, unknown
from tinygptv_core.presets import Preset, changed, named, starting_at, with_instruct, with_list
from tinygptv_core.run import RunOptions

DEFAULT_PRESET = "nano"
DEFAULT_RULE: Rule = "first"
COMPUTING = ("/features", "/train", "/evaluate")
"""How the names of the steps end that compute on the device."""
HELD = ("store", "mlflow", "prefect", "runs", "ray")
"""The folders of a home."""


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


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can begin."""

    preset: Preset
    place: Place
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
    preset = changed(_preset(choice), choice.settings)
    stage, digest = _init(choice.init)
    preset = starting_at(preset, stage) if stage else preset
    home, options = choice.home, _options(preset.options, choice.options)
    _check_folder(home)
    if writes:
        check_writable(home)
    terminal = Terminal()
    place = Place(
        home=home,
        fetching=_fetching(choice, options),
        own_lists={name: lists_named(typed) for name, typed in _own(choice).items()},
        removal_list=_removal_list(choice.removal_list),
        images=typed_path(choice.images) if choice.images else None,
        data=_folder("--data", choice.data) if choice.data else None,
        ray_address=choice.ray_address,
        tracking_uri=tracking_uri(home),
        experiment=preset.name,
        options=options,
        promote=choice.promote,
        bundle=choice.bundle,
        run=_new_run(),
        progress=terminal.progress,
    )
    if preset.backbones.sources is None:
        shipped(preset.backbones)
    requests = steps(preset, place, stage or None)
    if stage:
        requests = given(requests, f"{stage}/train", place.store.find("checkpoint", digest))
    selection = select(requests, only=choice.only, start_from=choice.start_from, until=choice.until)
    planned = with_cache_advice(preset, plan(place.store, selection))
    lacks = [lacking_files(selection), _lacking_device(preset, options, planned)] if writes else []
    if any(lacks):
        raise ConfigError("\n".join(filter(None, lacks)))
    check_present(selection, planned, typed(choice))
    if any(item.step == "register" and item.action == "build" for item in planned):
        names(place.tracking_uri)  # a registry that does not answer is found now, not after the training
    return Prepared(preset=preset, place=place, terminal=terminal, selection=selection, planned=planned)


def _init(text: str | None) -> tuple[str, str]:
    """(stage, digest) of `--init stage2=DIGEST`; two empty texts without it."""
    stage, equals, digest = (text or "").partition("=")
    if text is not None and not (stage and equals and digest):
        raise ConfigError(
            f"--init {text}: it must read STAGE=DIGEST, as in stage2=9c41d0b2aa17.\n"
            "  tinygptv weights import checkpoint FILE --stage stage2 ends with it"
        )
    return stage, digest


def preset_named(name: str) -> Preset:
    """One of the project's presets, or `FILE.py:NAME`.

    Raises:
        ConfigError: there is none of that name.
    """
    path, colon, inside = name.partition(":")
    return _from_file(Path(path), inside) if colon else named(name)


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
        ("--promote", choice.promote, DEFAULT_RULE),
        *(("--set", setting, None) for setting in choice.settings),
        *(("--allow-host", host, None) for host in choice.allow_hosts),
        *(("--option", option, None) for option in choice.options),
    ]
    words = [word for name, value, usual in chosen if value not in (None, usual) for word in (name, str(value))]
    return [*words, *(["--bundle"] if choice.bundle else [])]


def default_home() -> Path:
    """The home of a run that names none."""
    return typed_path(os.environ.get("TINYGPTV_HOME") or ".tinygptv")


def default_data() -> str | None:
    """The folder of the user's own files, where no option names one."""
    named = os.environ.get("TINYGPTV_DATA")
    return str(typed_path(named)) if named else None


def _own(choice: Choice) -> dict[str, str]:
    """Data set -> the user's file in its place."""
    named = {LIST: choice.list_file, INSTRUCT: choice.instruct}
    return {name: typed for name, typed in named.items() if typed is not None}


def _preset(choice: Choice) -> Preset:
    from tasks.rows import check_list

    preset = preset_named(choice.preset)
    if (choice.instruct is None) != (choice.images is None):
        raise ConfigError("--instruct FILE and --images DIR go together: the talks, and the folder of their pictures")
    for name, typed in _own(choice).items():
        for one in lists_named(typed):
            state_of(one) if is_far(one) else check_list(Path(one), recipe(name))
        preset = with_list(preset) if name == LIST else with_instruct(preset)
    if choice.images is not None:
        _folder("--images", choice.images)
    return preset


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


def _from_file(path: Path, name: str) -> Preset:
    """The preset `name` of a user's own Python file, which is run."""
    if not path.is_file():
        raise ConfigError(f"--preset {path}:{name}: there is no file {path.absolute()}")
    spec = importlib.util.spec_from_file_location("user_preset", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--preset {path}:{name}: {path} must be a Python file, ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"--preset {path}:{name}: {path} cannot be run: {type(error).__name__}: {error}") from error
    presets: Mapping[str, Preset] = {key: item for key, item in vars(module).items() if isinstance(item, Preset)}
    if name not in presets:
        raise ConfigError(f"--preset {path}:{name}: " + unknown("preset ", name, list(presets)))
    return presets[name]


def tracking_uri(home: Path) -> str:
    """Where MLflow keeps what it is told: the server that the environment names, one up on the home, or a database."""
    up = up_on(home)
    return os.environ.get("MLFLOW_TRACKING_URI") or (up.mlflow if up else database_in(home))


def _check_folder(home: Path) -> None:
    """Refuse a home that is, or lies in, something else than a folder."""
    there = next(path for path in (home, *home.parents) if path.is_dir() or path.exists())
    if not there.is_dir():
        raise ConfigError(f"the home {home} is no folder: {there} is a file.\n  name another with --home DIR")


def _lacking_device(preset: Preset, options: RunOptions, planned: Sequence[Planned]) -> str | None:
    """That there is no GPU, where a step to build computes on one; told before anything is fetched for it."""
    if options.device != "cuda" or not any(i.action == "build" and i.step.endswith(COMPUTING) for i in planned):
        return None
    import torch

    if torch.cuda.is_available():
        return None
    asked = f"the preset {preset.name}" if preset.options.device == "cuda" else "--option device=cuda"
    return f"{asked} computes on a GPU, and torch sees none here.\n  to compute on the CPU  --option device=cpu"


def check_writable(home: Path) -> None:
    """Make the home, and a file in it and in each of its folders, which may lie elsewhere (a link, a mount).

    Raises:
        ConfigError: that cannot be done.
    """
    for folder in (home, *(home / name for name in HELD if (home / name).is_dir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            if has_no_room(error):
                raise
            what = "the home" if folder == home else f"{folder.name}/ of the home"
            raise ConfigError(
                f"{what} {folder} cannot be written to ({error.strerror}).\n"
                "  name another home with --home DIR, or set TINYGPTV_HOME"
            ) from None


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


def _options(usual: RunOptions, texts: Sequence[str]) -> RunOptions:
    """How training runs: as the preset has it, changed as `--option` says."""
    return change(usual, dict(pairs_of(texts, "--option", "micro_batch=8")))


def _new_run() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
