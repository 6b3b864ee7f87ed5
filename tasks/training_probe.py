"""What training takes, by training for a moment: some steps on the real data, in a folder that is removed."""

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tasks.request import StepFolders, TrainingEstimate
from tasks.tied import run_tied
from tasks.training_estimates import by_arithmetic, disk_bytes, samples_of
from tinygptv_core.parameters import sizes_in
from tinygptv_core.run import RunSpec, write_spec
from tinygptv_core.stage import Stage
from tinygptv_core.training.metrics import Line, lines_of

PROBE_STEPS = 20
LONGEST_SECONDS = 1800.0
WARMING_STEPS = 5
"""The first steps are slower: memory is got, kernels are chosen."""
ERROR = re.compile(r"^(?:\[rank\d+\]: *)?((?!.*ChildFailedError)[\w.]*Error: .*)$", re.MULTILINE)

TORCHRUN = re.compile(r"^[WE]\d{4} .*(?:closing signal|failed \(exitcode)", re.MULTILINE)
"""With what torchrun begins to tell of a process that failed, which has said why before."""
KILLED = "(exitcode: -9)"
"""In torchrun's words."""


def probe(spec_of: Callable[[StepFolders], RunSpec], *, aided: bool) -> TrainingEstimate:
    """Train for `PROBE_STEPS`, in as many processes of this machine as the run would have.

    Args:
        spec_of: the run that is wanted, by where it writes.
        aided: vision tokens would be kept for it. Where they are not there yet, the probe looks at every picture.
    """
    with tempfile.TemporaryDirectory(prefix="tinygptv-probe-") as name:
        folders = StepFolders(out=Path(name, "out"), scratch=Path(name, "work"), notes=Path(name, "notes"))
        wanted = spec_of(folders)
        options = replace(wanted.options, log_every_steps=1, save_every_steps=PROBE_STEPS, save_every_seconds=None)
        spec = replace(wanted, stage=shortened(wanted.stage), options=options)
        failure = _run(spec, Path(name))
        sizes = sizes_in(spec.backbones)
        if failure:
            return by_arithmetic(wanted.stage, sizes, options, f"no time is known, for the probe failed: {failure}")
        lines = lines_of(folders.notes / "metrics.jsonl")
        summary = json.loads((folders.notes / "summary.json").read_text())
    return TrainingEstimate(
        seconds=samples_of(wanted.stage) / samples_per_second(lines),
        memory_bytes=summary["peak_memory_bytes"],
        disk_bytes=disk_bytes(wanted.stage, sizes, options),
        by="probe",
        note="at most, for no vision tokens are kept yet" if aided and spec.features is None else "",
    )


def shortened(stage: Stage) -> Stage:
    """`stage` with the steps of a probe, all of them at its peak rate or below."""
    steps = min(PROBE_STEPS, stage.schedule.steps)
    schedule = replace(stage.schedule, steps=steps, warmup_steps=0)
    return replace(stage, schedule=schedule, published_accumulation=min(stage.published_accumulation, steps))


def samples_per_second(lines: Sequence[Line]) -> float:
    """Of the steps after those that warm up, each of which has a line."""
    after = lines[min(WARMING_STEPS, len(lines) - 2) :] if len(lines) > 1 else lines
    if len(after) < 2:
        return after[0]["samples_per_second"]
    samples = sum(now["samples_per_second"] * (now["seconds"] - before["seconds"]) for before, now in pairwise(after))
    return samples / (after[-1]["seconds"] - after[0]["seconds"])


def _run(spec: RunSpec, folder: Path) -> str | None:
    """Run it as on a bare machine; what it failed of, in one line, or None."""
    write_spec(spec, folder / "RUN.json")
    processes = spec.options.processes
    launcher = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", processes]
    several = [*map(str, launcher), "-m"] if processes > 1 else []
    module = "tinygptv_core.train" if spec.options.engine == "ddp" else "tasks.zero"
    command = [sys.executable, "-m", *several, module, str(folder / "RUN.json")]
    environment = {"GLOO_SOCKET_IFNAME": "lo", **os.environ}
    messages = folder / "messages"
    with messages.open("wb") as file:
        status = run_tied(command, environment, file, LONGEST_SECONDS)
    if status is None:
        return f"it had not ended after {LONGEST_SECONDS:.0f} s"
    if status == 0:
        return None
    told = messages.read_text(errors="replace")
    if status == -signal.SIGKILL or KILLED in told:
        return "a process of it was killed, most likely because memory ran out"
    return _reason(told)


def _reason(told: str) -> str:
    """The error of a stack trace, or else the last line that begins a message; what belongs to one is indented."""
    if errors := ERROR.findall(told):
        return errors[-1]
    own = TORCHRUN.split(told, maxsplit=1)[0].splitlines()
    return next((line for line in reversed(own) if line.strip() and not line[0].isspace()), "it said nothing")
