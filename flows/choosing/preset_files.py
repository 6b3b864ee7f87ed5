"""Presets in a user's own Python file, FILE.py:NAME."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.presets import Preset
from tinygptv_core.user_code import FAILURES, cannot_be_run


def preset_in(path: Path, name: str) -> Preset:
    """The preset `name` of the file, which is run.

    Raises:
        ConfigError: there is no such file, it cannot be run, or has no preset of that name; says which there are.
    """
    asked = f"--preset {path}:{name}" if name else f"--preset {path}"
    if not path.is_file():
        raise ConfigError(f"{asked}: there is no file {path.absolute()}")
    presets = _presets_in(path, asked)
    if not name:
        some = [*presets, "NAME"][max(len(presets) - 1, 0)]  # what it imports comes before what it makes
        there = ", ".join(presets) or "none"
        raise ConfigError(f"{asked} must name one of its presets, as in {path}:{some}. There are: {there}.")
    if name not in presets:
        raise ConfigError(f"{asked}: " + unknown("preset ", name, list(presets)))
    return presets[name]


def _presets_in(path: Path, asked: str) -> Mapping[str, Preset]:
    spec = importlib.util.spec_from_file_location("user_preset", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{asked}: {path} must be a Python file, ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        raise ConfigError(f"{asked}: {cannot_be_run(path, error)}") from error
    return {key: item for key, item in vars(module).items() if isinstance(item, Preset)}
