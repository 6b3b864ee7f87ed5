"""Prefect's database as a home has it after its first run: to make it is most of what a first start takes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.settings import SERVER
from tasks.lease import lease

NAME = "prefect.db"


def give_database(home: Path, factory: pytest.TempPathFactory) -> None:
    """Put an empty one into `home`, made once for all processes of this session of pytest."""
    shared = factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "prefect"
    with lease(shared.with_suffix(".lease"), lambda text: None):
        if not (shared / NAME).exists():
            _make(shared)
    (home / "prefect").mkdir(parents=True)
    shutil.copy(shared / NAME, home / "prefect" / NAME)


def _make(folder: Path) -> None:
    making = folder.with_suffix(".making")
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    settings = {**others, **SERVER, "PREFECT_HOME": str(making)}
    subprocess.run(command, env=settings, check=True, stdout=subprocess.DEVNULL)
    making.rename(folder)
