"""Killing runs: where one stands, who of it dies, and what is noted of each kill."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
from conftest import COMMAND, PATIENCE_SECONDS, Home, kill_all

Who = Literal["everything", "group", "driver", "worker"]
"""All processes of the run at once; the driver's process group; the driver alone; one training process alone."""

START, END = "start", "end"
"""The places before a run's first step and after its last."""
POLL_SECONDS = 0.01
TRAINING_PROCESS = "RayTrainWorker"


@dataclass(frozen=True, kw_only=True)
class Calm:
    """What is known of the DAG from a run that nobody disturbed, of the whole or of its first steps.

    Attributes:
        names: key -> the step's name, of everything in the store.
        seconds: a step's name -> how long it took, in the order of the DAG; `START` and `END` are two more.
        steps: a training step's name -> its optimizer steps.
    """

    names: Mapping[str, str]
    seconds: Mapping[str, float]
    steps: Mapping[str, int]


def calm_of(store: Path, report: Mapping[str, Any]) -> Calm:
    """What the report of an undisturbed run and its store say."""
    records = {path.stem: json.loads(path.read_text()) for path in store.glob("keys/*/*.json")}
    took = {step["step"]: step["seconds"] for step in report["steps"]}
    return Calm(
        names={key: record["name"] for key, record in records.items()},
        seconds={START: 5.0, **took, END: 2.0},
        steps={f"{name}/train": stage["steps"] for name, stage in report["stages"].items()},
    )


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill that is wanted: of whom, in which step, when so much of the step (0..1) is done.

    A step that the undisturbed run did not come to is named by its kind: `evaluate`, `register`.
    """

    who: Who
    step: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What a kill met: the steps that the run was building, and the optimizer step that was told of last."""

    kill: Kill
    seconds: float
    building: tuple[str, ...]
    reached: int | None
    num_killed: int

    def row(self, number: int) -> str:
        """A line of the table."""
        aim = f"{self.kill.step} {self.kill.share:.0%}"
        reached = "-" if self.reached is None else str(self.reached)
        found = ", ".join(self.building) or "between steps"
        who = f"{self.kill.who:11s} {self.num_killed:9d}"
        return f"{number:3d}  {aim:26s} {who} {self.seconds:8.1f}  {reached:>5s}  {found}"


HEAD = f"{'':3s}  {'aimed at':26s} {'killed':11s} {'processes':>9s} {'after s':>8s}  {'step':>5s}  while building"


@dataclass(kw_only=True)
class Running:
    """A run in its home, from the command to whatever ends it."""

    home: Home
    calm: Calm
    process: subprocess.Popen[str]
    messages: Path
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, home: Home, calm: Calm, arguments: Sequence[str], messages: Path) -> "Running":
        """Start the command; what it prints goes to `messages`."""
        with messages.open("w") as file:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                env=home.environment(),
                cwd=home.path.parent,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return cls(home=home, calm=calm, process=process, messages=messages)

    @property
    def store(self) -> Path:
        """The store that it builds in."""
        return self.home.path / "store"

    def building(self) -> dict[str, str]:
        """Key -> name of the steps whose leases it holds, or held when it was killed; a step's parts come after it."""
        held = {}
        for path in self.store.glob("leases/*"):
            try:
                holder = json.loads(path.read_text()) if "." not in path.name else {"pid": None}
            except (FileNotFoundError, ValueError):
                continue
            if holder["pid"] == self.process.pid and (name := self._name(path.name)):
                held[path.name] = name
        return held

    def _name(self, key: str) -> str | None:
        """The step of a key; where nobody knows its name, its kind, once it is at work."""
        kind = next((path.parent.name for path in self.store.glob(f"work/*/{key}")), None)
        return self.calm.names.get(key, kind)

    def finished(self) -> set[str]:
        """The names of the steps that the home has built."""
        known = {path.stem for path in self.store.glob("keys/*/*.json")}
        return {name for key, name in self.calm.names.items() if key in known}

    def reached(self, key: str) -> int | None:
        """The last optimizer step that the run of this key told of."""
        metrics = self.store / "notes" / key / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return json.loads(lines[-1])["step"] if lines else None

    def wait_for(self, kill: Kill) -> None:
        """Return when it stands where `kill` is meant to meet it, when it is beyond that, or when it has ended."""
        due: float | None = None
        if kill.step == START:
            due = self.began + kill.share * self.calm.seconds[START]
        end = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None and (due is None or time.monotonic() < due):
            assert time.monotonic() < end, f"{kill} had not come after {PATIENCE_SECONDS} s: {self.tail()}"
            time.sleep(POLL_SECONDS)
            if due is None:
                due = self._due(kill)

    def _due(self, kill: Kill) -> float | None:
        """The moment to kill, once it is known."""
        last = list(self.calm.seconds)[-2]
        now = time.monotonic()
        keys = [key for key, name in self.building().items() if name == kill.step]
        if kill.step in self.calm.steps and keys:
            wanted = int(kill.share * self.calm.steps[kill.step])
            return now if (self.reached(keys[0]) or 0) >= wanted else None
        if keys:
            return now + kill.share * self.calm.seconds.get(kill.step, 0.0)
        if kill.step not in self.calm.seconds:
            return None
        if last in (done := self.finished()):
            return now + (kill.share * self.calm.seconds[END] if kill.step == END else 0.0)
        return now if kill.step in done else None

    def strike(self, kill: Kill) -> tuple[Struck, list[psutil.Process]]:
        """Kill; what that met, and all processes that the run had."""
        driver = psutil.Process(self.process.pid)
        tree = [driver, *driver.children(recursive=True)]
        workers = [one for one in tree if TRAINING_PROCESS in title(one)]
        who = kill.who if kill.who != "worker" or workers else "driver"
        if who == "everything":
            kill_all(self.process)
        elif who == "group":
            os.killpg(self.process.pid, 9)
        elif who == "driver":
            self.process.kill()
        else:
            workers[-1].kill()
        building = self.building()
        if who != "worker":
            self.process.wait(PATIENCE_SECONDS)
        reached = [self.reached(key) for key, name in building.items() if name in self.calm.steps]
        struck = Struck(
            kill=Kill(who=who, step=kill.step, share=kill.share),
            seconds=time.monotonic() - self.began,
            building=tuple(sorted(building.values())),
            reached=reached[0] if reached else None,
            num_killed={"everything": len(tree), "group": _group(tree, self.process.pid)}.get(who, 1),
        )
        return struck, tree

    def tail(self) -> str:
        """The last that it said."""
        return self.messages.read_text()[-3000:]


def killed_until_done(
    home: Home, calm: Calm, arguments: Sequence[str], kills: Sequence[Kill], told: Callable[[str], None]
) -> tuple[list[Struck], list[psutil.Process], Path]:
    """The same command, killed and given again until it ends by itself.

    Returns:
        what each kill met, all processes of the runs that were killed, and the report of the one that was not.
    """
    home.path.parent.mkdir(exist_ok=True)
    struck: list[Struck] = []
    processes: list[psutil.Process] = []
    running: Running | None = None
    try:
        for number, kill in enumerate(kills, start=1):
            running = running or Running.begin(home, calm, arguments, home.path.with_name(f"run-{number}.txt"))
            running.wait_for(kill)
            if running.process.poll() is not None:
                break
            met, tree = running.strike(kill)
            struck.append(met)
            told(met.row(number))
            if met.kill.who != "worker":
                processes += tree
                running = None
        running = running or Running.begin(home, calm, arguments, home.path.with_name("last-run.txt"))
        assert running.process.wait(PATIENCE_SECONDS) == 0, running.tail()
    finally:
        if running is not None and running.process.poll() is None:
            kill_all(running.process)
    return struck, processes, Path(running.messages.read_text().splitlines()[-1])


def _group(tree: Sequence[psutil.Process], group: int) -> int:
    """How many of these were in the process group, as far as it can still be told."""
    found = 0
    for one in tree:
        try:
            found += os.getpgid(one.pid) == group
        except ProcessLookupError:
            found += one.pid == group
    return found


def title(process: psutil.Process) -> str:
    """Its command line."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
