"""Ending processes: runs first and alone, so that they can save themselves, then whole trees."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

RUN = "PREFECT__FLOW_RUN_ID"
"""What Prefect's worker tells a run of itself; what the run starts inherits it."""
SAVE_SECONDS = 20.0
"""What runs have to save themselves in and to end what they started (`flows/choosing/forms.py`: STOP_SECONDS)."""
END_SECONDS = 12.0
POLL_SECONDS = 0.1


def runs_on(home: Path) -> list[psutil.Process]:
    """All processes of runs that a worker started on that home, whoever is their parent now."""
    return [process for process in psutil.process_iter() if _is_of_run(process, home) and _goes_on(process)]


def end_runs(home: Path, worker: int | None = None) -> None:
    """End the runs on a home.

    Args:
        worker: the process that would start the next ones meanwhile; it stands still until they have ended.
    """
    standing = _tree(worker)[:1] if worker else []
    for process in standing:
        _tell(process, signal.SIGSTOP)
    try:
        running = runs_on(home)
        started = {process.pid for process in running}
        for process in running:
            if _parent(process) not in started:  # the run itself, which saves and then ends what it started
                _tell(process, signal.SIGTERM)
        _wait(running, SAVE_SECONDS)
        _kill(runs_on(home))
    finally:
        for process in standing:
            _tell(process, signal.SIGCONT)


def end_trees(pids: Sequence[int]) -> None:
    """End processes and all that they started: asked first, then killed."""
    ending = [process for pid in pids for process in _tree(pid)]
    for process in ending:
        _tell(process, signal.SIGTERM)
    _wait(ending, END_SECONDS)
    _kill(ending)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in filter(_goes_on, processes):
        _tell(process, signal.SIGKILL)
    _wait(processes, END_SECONDS)


def _wait(processes: Sequence[psutil.Process], seconds: float) -> None:
    """What psutil has for it waits until the parent has asked how a process ended, and a parent may stand still."""
    end = time.monotonic() + seconds
    while any(map(_goes_on, processes)) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _is_of_run(process: psutil.Process, home: Path) -> bool:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return False  # another user's, or gone
    return RUN in environment and environment.get("TINYGPTV_HOME") == str(home) and process.pid != os.getpid()


def _goes_on(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _tell(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
