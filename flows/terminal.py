"""What a run prints: a line per step, and for long ones how far it is and how long it will take."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tasks.build import BuildResult
from tasks.quantities import interval, known, loss, percent
from tasks.reporting.report import Report, Scores, StageReport
from tasks.request import SHORT
from tinygptv_core.compute import Progress
from tinygptv_core.training.metrics import clock

LINE_SECONDS = 5.0
"""Between two lines of progress where there is no terminal to draw a bar on."""


@dataclass(kw_only=True)
class Terminal:
    """Prints to standard error, so that standard output holds the result alone.

    Attributes:
        also: told the same of a step, and its name.
    """

    also: Callable[[str, int, int, str], None] | None = field(default=None, init=False)
    steps: int = field(default=0, init=False)
    finished: int = field(default=0, init=False)
    bar: "tqdm[Any] | None" = field(default=None, init=False)

    def progress(self, name: str) -> Progress:
        """What a step tells how far it is: a bar on a terminal, else a line now and then."""
        shown = self._bar(name) if sys.stderr.isatty() else _lines(name)

        def tell(done: int, total: int, text: str) -> None:
            shown(done, total, text)
            if self.also is not None:
                self.also(name, done, total, text)

        return tell

    def _bar(self, name: str) -> Progress:
        def tell(done: int, total: int, text: str) -> None:
            if self.bar is not None and done < self.bar.n:  # another phase
                self._close()
            bar: tqdm[Any] = self.bar or tqdm(
                initial=done, total=total, desc=f"  {name}", leave=False, mininterval=0.2, dynamic_ncols=True
            )
            self.bar = bar
            bar.total = total
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)

        return tell

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def done(self, built: BuildResult) -> None:
        """One line for a finished step."""
        self._close()
        self.finished += 1
        word = "built " if built.action == "build" else "reused"
        seconds = f"{built.seconds:6.1f} s" if built.action == "build" else " " * 8
        say(f"[{self.finished:2d}/{self.steps}] {word} {built.name:28s} {seconds}  {built.artifact.digest[:SHORT]}")

    def summary(self, report: Report, path: Path) -> None:
        """What a person wants to know first of a run that is done."""
        for name, counts in report["data"].items():
            reasons = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items())
            say(f"{name}: {counts['kept']} of {counts['rows']} kept{f' (dropped: {reasons})' if reasons else ''}")
        for name, stage in report["stages"].items():
            for told in filter(None, (_trained(stage), *stage["notices"])):
                say(f"{name}: {told}")
        for of, scores in _shown(report).items():
            for name, metrics in scores.items():
                for metric, score in metrics.items():
                    control = score["control"]
                    beside = f", control {percent(control['value'])}" if control else ""
                    say(f"{of}{name} {metric}: {percent(score['value'])} ({interval(score)}{beside})")
        if report["model"]:
            say(f"registered: models:/{report['model']['name']}/{report['model']['version']}")
        say(f"to look at: {path.with_suffix('.html')}")


def _shown(report: Report) -> dict[str, Scores]:
    """The last stage's scores; where it was not evaluated, those of all that was, by what stands before a line."""
    if report["scores"]:
        return {"": report["scores"]}
    found = {"before training: ": report["fresh"]["scores"]} if report["fresh"] else {}
    if report["init"]:
        found[f"{report['init']['stage']}: "] = report["init"]["scores"]
    return found | {f"{name}: ": stage["scores"] for name, stage in report["stages"].items()}


def _trained(stage: StageReport) -> str | None:
    """How a stage went, in a line; None where nothing is known of it."""
    if stage["seconds"] is None:
        return None
    told = f"held-out loss {known(stage['loss_first'], loss)} to {known(stage['loss_last'], loss)}"
    if band := stage["expected"]:
        told += f", {band['verdict']} what is expected ({band['low']:.2f} to {band['high']:.2f})"
    taken = f"{clock(stage['seconds'])}, {known(stage['samples_per_second'], '{:.0f}'.format)} samples/s"
    guess = stage["predicted"]
    told += f"; {taken}{f' (predicted {clock(s)})' if guess and (s := guess['seconds']) is not None else ''}"
    return told + (f"; warnings: {len(stage['warnings'])}, see the report" if stage["warnings"] else "")


def say(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _lines(name: str) -> Progress:
    began = last_told = time.monotonic()
    first = last = 0

    def tell(done: int, total: int, text: str) -> None:
        nonlocal began, first, last, last_told
        now = time.monotonic()
        if done < last or last == 0:  # the first word, or that of another phase: the clock starts here
            began, first = now, done
        last = done
        if now - last_told < LINE_SECONDS:
            return
        last_told = now
        left = f", {clock((now - began) / (done - first) * (total - done))} left" if done > first else ""
        say(f"        {name}: {done} of {total}{left}{f', {text}' if text else ''}")

    return tell
