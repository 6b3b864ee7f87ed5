"""JSON files that are written whole or not at all; a damaged one is said to be, with what helps."""

import json
import shlex
from collections.abc import Set
from pathlib import Path
from typing import Any

from tinygptv_core.drafts import write_whole
from tinygptv_core.plain import ConfigError


def read_whole(path: Path, names: Set[str], *, damage: str, cure: str) -> dict[str, Any]:
    """An object with all of `names`.

    Args:
        damage: what is wrong with a file that is none: "it is no record of a build".
        cure: what removing it does, which the message names.

    Raises:
        FileNotFoundError: there is no file.
        ConfigError: it is damaged; says what helps.
    """
    try:
        told = json.loads(path.read_bytes())
    except ValueError:
        told = None
    if not isinstance(told, dict) or not told.keys() >= names:
        raise ConfigError(f"{path} is damaged: {damage}.\n  rm {shlex.quote(str(path))}  {cure}")
    return told


def write_json(path: Path, value: object) -> None:
    """`value` as JSON at `path`, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True))
