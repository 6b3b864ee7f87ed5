"""Whole runs as a user starts them, in processes of their own: without Ray, on Ray, and killed and started again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.loops import Ran, anew, told
from tasks.train import ray_workers
from tasks.training.cluster import ray_cluster
from tinygptv_core.run import RunSpec, write_spec

POLL_SECONDS = 0.02


class RunError(RuntimeError):
    """A run failed that was to be measured; its messages are in this one's text."""


def without_ray(spec: RunSpec) -> Ran:
    """`python -m tinygptv_core.train` from its first step to its last."""
    _wait(_started(anew(spec)), spec)
    return _ran(spec)


def on_ray(spec: RunSpec) -> Ran:
    """The same run by a worker of Ray Train, on a cluster that is started for it."""
    home = spec.out.parent.parent / "home"
    with ray_cluster(home, None), ray_workers(home, spec.options) as workers:
        workers.train(anew(spec), lambda done, total, text: None)
    return _ran(spec)


def _ran(spec: RunSpec) -> Ran:
    return Ran(losses=told(spec.notes, "loss"), done_at=told(spec.notes, "seconds"))


def resumed(spec: RunSpec, *, save_at: int, kill_at: int) -> float:
    """Seconds that a run takes beyond its steps when it goes on after a kill, its start and its end among them.

    Args:
        save_at: the step after which the first state is saved.
        kill_at: the step after which it is killed, save_at < kill_at < all steps.
    """
    spec = anew(replace(spec, options=replace(spec.options, save_every_steps=save_at)))
    with _killed_at_end(_started(spec)) as process:
        while process.poll() is None and _steps_done(spec) < kill_at:
            time.sleep(POLL_SECONDS)
    if process.returncode != -signal.SIGKILL:
        raise RunError(f"the run ended ({process.returncode}) before it was killed, after {_steps_done(spec)} steps")
    began = time.monotonic()
    _wait(_started(spec), spec)
    seconds = time.monotonic() - began
    resumed_from = json.loads((spec.notes / "summary.json").read_text())["resumed_from_step"]
    again = spec.stage.schedule.steps - resumed_from
    return seconds - again * _ran(spec).middle_step_seconds


def saving_seconds(spec: RunSpec) -> tuple[float, float]:
    """(what a state adds to the step while which it is written, a step without one), in seconds.

    Both are medians of one run, in which every other step is followed by a state: two runs differ by more than it adds.
    """
    done_at = without_ray(replace(spec, options=replace(spec.options, save_every_steps=2))).done_at
    seconds = [later - earlier for earlier, later in pairwise(done_at)]  # of the second step, which warms up, the third
    written, none = median(seconds[1::2]), median(seconds[2::2])
    return written - none, none


def _started(spec: RunSpec) -> subprocess.Popen[bytes]:
    spec.notes.mkdir(parents=True, exist_ok=True)
    write_spec(spec, spec.notes / "RUN.json")
    command = [sys.executable, "-m", "tinygptv_core.train", str(spec.notes / "RUN.json")]
    with _messages(spec).open("ab") as messages:
        return subprocess.Popen(command, stdout=messages, stderr=messages)


def _messages(spec: RunSpec) -> Path:
    return spec.notes / "messages.txt"


@contextmanager
def _killed_at_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], spec: RunSpec) -> None:
    try:
        if process.wait() != 0:
            raise RunError(f"a run failed ({process.returncode}): {_messages(spec).read_text()}")
    finally:
        process.kill()


def _steps_done(spec: RunSpec) -> int:
    path = spec.notes / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
