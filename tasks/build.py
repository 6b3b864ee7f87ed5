"""Steps and the store: a request's key gives a digest, a digest gives a folder.

The only place that decides whether something is built already. (DESIGN: identity.)
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Step:
    """A kind of work: its name, the kind of artifact it makes, and the version of its code.

    The version is raised whenever the same request would write other bytes.
    """

    name: str
    kind: str
    version: int


@dataclass(frozen=True, kw_only=True)
class Site:
    """The three folders that a step writes to; all exist when it starts.

    Attributes:
        out: becomes the artifact. Empty, or as a killed build of the same key left it.
        scratch: survives a kill, is removed when the step is done: optimizer, partial downloads.
        notes: kept, hashed nowhere: metrics.jsonl, logs, summary.json.
    """

    out: Path
    scratch: Path
    notes: Path
