"""The whole nano pipeline, run as a person runs it, in a home of its own."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.prefect_database import give_database

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "flows.cli"]
PATIENCE_SECONDS = 2_400
"""Of one command, and below of one test: a run of minutes takes many times as long on a machine that others use."""


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(2 * PATIENCE_SECONDS))


@dataclass(frozen=True, kw_only=True)
class Home:
    """A home and the file that notes every connection attempt of what runs on it."""

    path: Path
    watch: Path

    def environment(self):
        ours = ("PREFECT", "MLFLOW", "RAY", "OMP_NUM_THREADS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        path = f"{HERE / 'watch'}{os.pathsep}{HERE.parents[1]}"
        watching = {"PYTHONPATH": path, "WATCH_FILE": str(self.watch)}
        return {**kept, **watching, "TINYGPTV_HOME": str(self.path), "HOME": str(self.users)}

    @property
    def users(self):
        """The user's own home, in which nothing is to be written."""
        return self.path.parent / "user"

    def start(self, *arguments):
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment(),
            cwd=self.path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, status=0):
        with self.start(*arguments) as process:
            out, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == status, errors[-4000:]
        return out, errors

    def report(self, *arguments, command=("run",)):
        out, _ = self.run(*command, *arguments)
        return json.loads(Path(out.splitlines()[-1]).read_text())

    def plan(self, *arguments):
        return {item["step"]: item for item in json.loads(self.run("plan", "--json", *arguments)[0])}

    def connections(self):
        """Every (event, target) that any Python process of this home tried."""
        lines = self.watch.read_text().splitlines() if self.watch.exists() else []
        return {(event, ast.literal_eval(target)) for event, target in (line.split(" ", 1) for line in lines)}


def kill_all(process):
    """SIGKILL the process and everything that it has started, at once; itself first, so that it sees nothing of it."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree, timeout=30)


def new_home(folder):
    return Home(path=folder / "home", watch=folder / "connections.txt")


@pytest.fixture(scope="package")
def home(tmp_path_factory):
    return new_home(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="package")
def report(home):
    """The report of a first run on a fresh home."""
    return home.report()


@pytest.fixture
def fresh_home(tmp_path):
    return new_home(tmp_path)


@pytest.fixture
def used_home(fresh_home, tmp_path_factory):
    """A home that has Prefect's database, and nothing else yet."""
    give_database(fresh_home.path, tmp_path_factory)
    return fresh_home
