"""Where work runs, how precisely, and what it tells of how far it is. Without torch: whoever plans has this too."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
"""What is computed in; the names are torch's."""

Progress = Callable[[int, int, str], None]
"""(done, total, what): how far something has come."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where work runs: the device, and the CPU threads that it takes."""

    device: str
    threads: int
