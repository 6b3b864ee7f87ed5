"""Who is up on a home: `up.json` in it, which `tinygptv up` writes, says which servers a command there uses."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tasks.lease import Holder, is_alive


@dataclass(frozen=True, kw_only=True)
class RunningServers:
    """Who is up on a home.

    Attributes:
        servers: the processes that it started, each in a group of its own.
    """

    holder: Holder
    prefect: str
    mlflow: str
    servers: tuple[Holder, ...] = ()


def up_on(home: Path) -> RunningServers | None:
    """Who is up on `home`; None where nobody is, or not any more."""
    found = _noted(home)
    return found if found and is_alive(found.holder) else None


def use_up(home: Path) -> bool:
    """Have this process tell what it does to the servers that are up on `home`, if they are; whether they are.

    What a person's own settings name, stands.
    """
    found = up_on(home)
    if found is None:
        return False
    os.environ.setdefault("PREFECT_API_URL", f"{found.prefect}/api")
    os.environ.setdefault("MLFLOW_TRACKING_URI", found.mlflow)
    return True


def servers_noted(home: Path) -> tuple[Holder, ...]:
    """The servers that were last started on `home`, which may be gone."""
    found = _noted(home)
    return found.servers if found else ()


def _noted(home: Path) -> RunningServers | None:
    try:
        told = json.loads((home / "up.json").read_text())
        servers = tuple(Holder(**server) for server in told.pop("servers"))
        return RunningServers(**{**told, "holder": Holder(**told["holder"]), "servers": servers})
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # a machine that lost its power may leave half of it
        return None
