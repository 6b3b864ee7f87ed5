import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.serving.server import CHOSEN, start_prefect_server

PATIENCE_SECONDS = 60
COMMAND = """
import sys, time
from pathlib import Path
from flows.serving.server import start_prefect_server
start_prefect_server(Path(sys.argv[1]))()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def unsettled(monkeypatch, tmp_path):
    """A person who has settled nothing about Prefect, in an empty folder, before Prefect is imported."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("PREFECT")]:
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def servers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "flows.serving.server" in child.cmdline()]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_server_answers_and_ends_with_its_command_even_if_that_is_killed(unsettled):
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(unsettled / "home")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        text=True,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        (server,) = servers_of(command.pid)
        command.kill()
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_gone(server) and time.monotonic() < until:
        time.sleep(0.1)
    assert is_gone(server)
    assert (unsettled / "home" / "prefect" / "prefect.db").exists()


@pytest.mark.parametrize("name", CHOSEN)
def test_a_server_that_a_person_may_have_named_stands(unsettled, monkeypatch, name):
    monkeypatch.setenv(name, "theirs")
    start_prefect_server(unsettled / "home")()
    assert servers_of(os.getpid()) == []
    assert os.environ[name] == "theirs"


@pytest.mark.parametrize("name", ["prefect.toml", "pyproject.toml"])
def test_so_does_one_that_a_file_here_may_name(unsettled, name):
    Path(name).write_text('[tool.prefect.api]\nurl = "http://127.0.0.1:4200/api"\n')
    start_prefect_server(unsettled / "home")()
    assert servers_of(os.getpid()) == []
    assert "PREFECT_API_URL" not in os.environ


def test_a_server_that_cannot_start_is_told_with_where_its_messages_are(unsettled, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "nonsense://")
    wait_for_server = start_prefect_server(unsettled / "home")
    with pytest.raises(RuntimeError, match=r"Prefect's server ended with status 1; its messages are in .*server\.log"):
        wait_for_server()
