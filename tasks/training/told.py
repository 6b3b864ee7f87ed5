"""What a training told of itself, in the notes of its build: how it went, and what it was asked to do."""

from pathlib import Path
from typing import Any

from tasks.whole_files import read_whole


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
    damage, cure = "it is not what a training tells of itself", "lets plans and reports do without it"
    try:
        return read_whole(path, names, damage=damage, cure=cure)
    except FileNotFoundError:
        return None
