"""Processes that end with those who started them."""

import os
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from tasks.tied import run_tied

SLEEPS = "import time; time.sleep(600)"
STARTS_ANOTHER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]], start_new_session=True)
time.sleep(600)
"""
RUNS_ONE = """
import os, sys
from tasks.tied import run_tied
with open(os.devnull, "wb") as messages:
    run_tied([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]], os.environ, messages, 600)
"""


@pytest.fixture
def mark():
    """A word in the command line of what a test starts."""
    return uuid.uuid4().hex


def processes_marked(mark):
    return [one for one in psutil.process_iter() if mark in command_line(one)]


def command_line(process):
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def wait_until(is_so):
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_takes_too_long_is_ended_with_all_that_it_started(mark, tmp_path):
    with (tmp_path / "messages").open("wb") as messages:
        assert run_tied([sys.executable, "-c", STARTS_ANOTHER, mark], os.environ, messages, 3.0) is None
    wait_until(lambda: not processes_marked(mark))


def test_a_command_ends_with_its_killed_parent(mark):
    parent = subprocess.Popen([sys.executable, "-c", RUNS_ONE, mark])
    wait_until(lambda: any(SLEEPS in command_line(one) and one.pid != parent.pid for one in processes_marked(mark)))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not processes_marked(mark))


def test_the_status_is_given_and_what_was_said(tmp_path):
    code = "import sys; print('no good', file=sys.stderr); sys.exit(3)"
    with (tmp_path / "messages").open("wb") as messages:
        assert run_tied([sys.executable, "-c", code], os.environ, messages, 60.0) == 3
    assert (tmp_path / "messages").read_text() == "no good\n"
