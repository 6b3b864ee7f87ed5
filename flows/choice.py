"""What a person asks for, from the command line or a form, made into steps; every mistake is found here."""

import importlib.util
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.pipeline import steps
from flows.place import Place
from flows.plan import Planned, Selection, check_present, plan, select
from flows.terminal import Terminal
from tasks.backbones_import import shipped
from tasks.fetch import FetchOptions
from tasks.registry import names
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.presets import Preset, changed, named, with_list
from tinygptv_core.run import RunOptions

DEFAULT_PRESET = "nano"
LIMITS = {"processes": 2, "threads": 1}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The command's options, as typed. `until` walks to a step and no further (`tinygptv data`, `train`)."""

    preset: str
    settings: tuple[str, ...]
    only: str | None
    start_from: str | None
    until: str | None
    list_file: str | None
    allow_hosts: tuple[str, ...]
    home: str
    ray_address: str | None


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
    home = Path(choice.home).expanduser().absolute()
    if writes:
        _check_writable(home)
    terminal = Terminal()
    place = Place(
        home=home,
        fetching=_fetching(choice),
        list_file=_list_file(choice.list_file) if choice.list_file else None,
        ray_address=choice.ray_address,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
        experiment=preset.name,
        options=_options(),
        run=_new_run(),
        progress=terminal.progress,
    )
    shipped(preset.backbones)
    requests = steps(preset, place)
    selection = select(requests, only=choice.only, start_from=choice.start_from, until=choice.until)
    planned = plan(place.store, selection)
    check_present(selection, planned, _typed(choice))
    if any(item.step == "register" and item.action == "build" for item in planned):
        names(place.tracking_uri)  # a registry that does not answer is found now, not after the training
    return Prepared(preset=preset, place=place, terminal=terminal, selection=selection, planned=planned)


def _typed(choice: Choice) -> list[str]:
    """The options of `choice` that say what is built and where, as they are typed."""
    pairs = [("--preset", choice.preset), ("--list", choice.list_file), ("--home", choice.home)]
    pairs += [("--set", setting) for setting in choice.settings] + [("--allow-host", h) for h in choice.allow_hosts]
    unsaid = (None, DEFAULT_PRESET, default_home())
    return [word for name, value in pairs if value not in unsaid for word in (name, str(value))]


def default_home() -> str:
    """The home of a run that names none."""
    return os.environ.get("TINYGPTV_HOME") or ".tinygptv"


def _preset(choice: Choice) -> Preset:
    path, colon, name = choice.preset.partition(":")
    preset = _from_file(Path(path), name) if colon else named(choice.preset)
    if choice.list_file is None:
        return preset
    from flows.data import recipe
    from tasks.rows import check_list

    check_list(_list_file(choice.list_file), recipe("list"))
    return with_list(preset)


def _list_file(typed: str) -> Path:
    return Path(typed).expanduser().absolute()


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


def _check_writable(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the home {home} cannot be written to ({error.strerror}).\n"
            "  name another with --home DIR, or set TINYGPTV_HOME"
        ) from None


def _fetching(choice: Choice) -> FetchOptions:
    """Threads wait for the network, not for a core. The progress and hosts of a data set are set by its step."""
    return FetchOptions(
        allow_hosts=choice.allow_hosts,
        hosts={},
        processes=LIMITS["processes"],
        threads=16,
        progress=lambda done, total, text: None,
    )


def _options() -> RunOptions:
    return RunOptions(
        **LIMITS, device="cpu", loader_workers=0, micro_batch=None, log_every_steps=5, save_every_steps=25
    )


def _new_run() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
