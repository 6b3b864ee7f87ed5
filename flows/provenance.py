"""What is written beside every digest: who made it, where, when and with what."""

import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tinygptv_core.run import RunOptions

PACKAGES = ("torch", "transformers", "peft", "webdataset", "ray", "prefect", "mlflow", "img2dataset", "pyarrow")


def noted(run: str, options: RunOptions | None) -> dict[str, Any]:
    """What is written beside every digest that a run makes. It bears on nothing.

    Args:
        options: how the run trains; None for one that never does.
    """
    return {
        "run": run,
        "time": time.time(),
        "host": platform.node(),
        "argv": sys.argv[1:],
        "python": platform.python_version(),
        "commit": commit(),
        "versions": {name: version_of(name) for name in PACKAGES},
        **({"engine": options.engine, "world_size": options.processes} if options else {}),
    }


def version_of(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout that the code runs from, with a `+` when files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")
