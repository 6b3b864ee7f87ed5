"""What a training told of itself, in the notes of its build: how it went, and what it was asked to do."""

import json
import shlex
from pathlib import Path
from typing import Any

from tinygptv_core.plain import ConfigError


def summary_in(notes: Path) -> dict[str, Any] | None:
    """How it went: losses, times, memory. None where that was pulled without it, or removed.

    Raises:
        ConfigError: it is damaged; says what helps.
    """
    return _read(notes / "summary.json", {"seconds", "samples_per_second", "peak_memory_bytes"})


def spec_in(notes: Path) -> dict[str, Any] | None:
    """Its RUN.json.

    Raises:
        ConfigError: it is damaged; says what helps.
    """
    return _read(notes / "RUN.json", {"options"})


def _read(path: Path, names: set[str]) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        told = None
    if not isinstance(told, dict) or not told.keys() >= names:
        raise ConfigError(
            f"{path} is damaged: it is not what a training tells of itself.\n"
            f"  rm {shlex.quote(str(path))}  lets plans and reports do without it"
        )
    return told
