"""Whole training runs: ours against the conventional loop, and what Ray, saving and a kill cost.

python -m benchmarks.train
python -m benchmarks.train --case "stage 2" --case states --rounds 1

Both loops read the same samples from tars in the same order, start from the same weights and take the same steps on one
thread, in float32; ours draws its samples, the other reads them from front to back. Every loss of every step must be
the same to 1e-4, or the run ends with exit code 1. Those times are processor seconds, of all but the first step.

The other rows are runs in processes of their own, and seconds of the clock, so that they want a quiet machine.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.loops import (
    STAGE2,
    STAGE4,
    Course,
    Length,
    Ran,
    Work,
    conventional,
    course,
    farthest,
    ours,
    process_seconds,
    with_kept_tokens,
)
from benchmarks.measure import MALLOCS, apart, environment
from benchmarks.model import CONVENTIONAL, DifferenceError
from benchmarks.processes import RunError, on_ray, resumed, saving_seconds, without_ray
from benchmarks.work import WIDTHS
from tinygptv_core.run import RunSpec

TOLERANCE = 1e-4
"""The most that a loss may differ at any step, in nats."""

LOOP = Length(steps=3, batch=16)
RAY = Length(steps=20, batch=16)
RAY_PAIRS = 2
"""Of short runs in a round: the machine's speed drifts within minutes by more than is looked for."""
RESUME = Length(steps=8, batch=4)
SAVE_AT, KILL_AT = 3, 5
STATES = Length(steps=24, batch=16)
STEPS_BETWEEN_STATES = 50

OURS, KEPT = "ours", "ours, kept vision tokens"
LOOPS: Mapping[str, Work] = {"stage 2": STAGE2, "stage 4": STAGE4}
GOALS = {
    "stage 2": {OURS: "1.3 x", KEPT: "3.3 x"},
    "stage 4": {OURS: "1.8 x", KEPT: "2.3 x"},
}
"""What is aimed at, at the middle width: as for a step alone (`benchmarks/model.py`)."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one way: samples per second of one core, and how far its losses are from the conventional loop's."""

    per_second: float
    difference: float


def speeds(width: str, case: str, length: Length, rounds: int) -> dict[str, Speed]:
    """Every way through a loop, in rounds in which they take turns; the quickest of each counts.

    Raises:
        DifferenceError: a loss differs by more than `TOLERANCE`.
    """
    with TemporaryDirectory() as folder:
        ways = _ways(course(Path(folder), WIDTHS[width], LOOPS[case], length))
        found: dict[str, list[Ran]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way())
    gaps = differences({name: runs[0] for name, runs in found.items()})
    return {
        name: Speed(per_second=length.batch / min(run.step_seconds for run in runs), difference=gaps[name])
        for name, runs in found.items()
    }


def _ways(given: Course) -> dict[str, Callable[[], Ran]]:
    kept = with_kept_tokens(given.spec)
    return {
        CONVENTIONAL: lambda: conventional(given, process_seconds),
        OURS: lambda: ours(given.spec, process_seconds),
        KEPT: lambda: ours(kept, process_seconds),
    }


def differences(runs: Mapping[str, Ran]) -> dict[str, float]:
    """The largest difference of each run's losses from the conventional one's.

    Raises:
        DifferenceError: it is more than `TOLERANCE`, or the runs are not equally long.
    """
    gaps = {name: farthest(run.losses, runs[CONVENTIONAL].losses) for name, run in runs.items()}
    for name, gap in gaps.items():
        if not gap <= TOLERANCE:  # nor is what is no number
            raise DifferenceError(f"{name} differs from the conventional loop in a loss by {gap:.1e}")
    return gaps


def loop_rows(width: str, case: str, rounds: int) -> Iterator[str]:
    """A row for every way through a loop."""
    fast = apart(speeds, width, case, LOOP, rounds)
    for name, speed in fast.items():
        ratio = speed.per_second / fast[CONVENTIONAL].per_second
        goal = GOALS[case].get(name, "") if width == "middle" else ""
        yield _row(f"{case}, {width} width: {name}", f"{speed.per_second:.2f} samples/s, {ratio:.2f} x", goal)


def ray_rows(width: str, rounds: int) -> Iterator[str]:
    """What a step takes longer on Ray Train: the median of pairs of runs."""
    with TemporaryDirectory() as folder:
        spec = course(Path(folder), WIDTHS[width], STAGE2, RAY).spec
        pairs = [_ray_pair(spec, ray_first=bool(number % 2)) for number in range(rounds * RAY_PAIRS)]
    if (gap := max(farthest(on.losses, without.losses) for without, on in pairs)) > 0:
        raise DifferenceError(f"Ray's losses differ from those of the run without it by {gap:.1e}")
    more = sorted(on.middle_step_seconds / without.middle_step_seconds - 1 for without, on in pairs)
    seconds = median(without.middle_step_seconds for without, _ in pairs)
    told = f"{1e3 * seconds:.0f} ms, on Ray {median(more):+.1%} ({len(more)} pairs, {more[0]:+.1%} to {more[-1]:+.1%})"
    yield _row(f"Ray Train: a step, {width} width", told, "+3 %")


def _ray_pair(spec: RunSpec, *, ray_first: bool) -> tuple[Ran, Ran]:
    """(without, on Ray), one just after the other."""
    if ray_first:
        on = apart(on_ray, spec)
        return apart(without_ray, spec), on
    return apart(without_ray, spec), apart(on_ray, spec)


def resume_rows(width: str, rounds: int) -> Iterator[str]:
    """What a kill costs beyond the steps since the last state."""
    with TemporaryDirectory() as folder:
        spec = course(Path(folder), WIDTHS[width], STAGE2, RESUME).spec
        found = [apart(resumed, spec, save_at=SAVE_AT, kill_at=KILL_AT) for _ in range(rounds)]
    yield _row(f"a kill: beyond the steps since the last state, {width} width", f"{median(found):.1f} s", "15 s")


def state_rows(width: str, rounds: int) -> Iterator[str]:
    """What states cost, of the time of a loop with kept vision tokens, whose steps are the shortest."""
    with TemporaryDirectory() as folder:
        spec = with_kept_tokens(course(Path(folder), WIDTHS[width], STAGE2, STATES).spec)
        found = [apart(saving_seconds, spec) for _ in range(rounds)]
    state, step = (median(values) for values in zip(*found, strict=True))
    told = f"{1e3 * state:.0f} ms a state: {state / (STEPS_BETWEEN_STATES * step):.2%}"
    yield _row(f"a state every {STEPS_BETWEEN_STATES} steps of {1e3 * step:.0f} ms, {width} width", told, "5 %")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


HEAD = ("| what | found | goal |", "| --- | --- | --- |")

RUNS: Mapping[str, Callable[[str, int], Iterator[str]]] = {
    "ray": ray_rows,
    "resume": resume_rows,
    "states": state_rows,
}
CASES = (*LOOPS, *RUNS)


def rows(width: str, case: str, rounds: int) -> Iterator[str]:
    """The rows of a case. Raises DifferenceError and RunError."""
    return RUNS[case](width, rounds) if case in RUNS else loop_rows(width, case, rounds)


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row. Returns 0, or 1 where two runs differ or one fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train")
    parser.add_argument("--width", choices=sorted(WIDTHS), default="middle", help="of the model (middle)")
    parser.add_argument("--case", choices=CASES, action="append", help="what is measured; all of it by default")
    parser.add_argument("--rounds", type=int, default=2, help="in which the ways take turns (2)")
    parser.add_argument(
        "--malloc", choices=MALLOCS, default="kept", help="what it does with memory that is free (kept)"
    )
    given = parser.parse_args(arguments)
    print(*HEAD, sep="\n", flush=True)
    try:
        with environment(given.malloc):
            for case in given.case or CASES:
                for row in rows(given.width, case, given.rounds):
                    print(row, flush=True)
    except (DifferenceError, RunError, BrokenProcessPool) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
