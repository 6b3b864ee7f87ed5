"""JSON files that a user may find damaged: each with what it must have, and one message of what helps."""

import json
import shlex
from collections.abc import Set
from pathlib import Path
from typing import Any

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
