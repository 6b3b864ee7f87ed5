"""Our training step and our answers against the conventional way: speed and memory, as ratios.

python -m benchmarks.model
python -m benchmarks.model --width nano --rounds 3
python -m benchmarks.model --width middle --malloc default

Both ways start from the same texts and pictures, have the same weights, attention, dtype (float32), threads (one) and
settings of malloc, and must give the same loss, gradients and tokens, or the run ends with exit code 1.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.measure import MALLOCS, apart, environment, peak_bytes, saved_bytes, seconds_of
from benchmarks.ways import CASES, Make, Way
from benchmarks.work import WIDTHS

TOLERANCE = 1e-5
"""The most that a loss or a gradient may differ, absolute."""

CONVENTIONAL = "conventional"

GOALS = {
    "stage 2 step, padded": "1.3 x, 0.5 x saved",
    "stage 2 step, padded, cached vision": "3.3 x",
    "stage 4 step, packed": "1.8 x, 0.33 x saved",
    "stage 4 step, packed, cached vision": "2.3 x",
    "16 questions on 16 pictures, from pixels": "1.3 x",
    "16 questions on 16 pictures, cached vision": "2.4 x",
}
"""What is aimed at, at the middle width."""


class DifferenceError(Exception):
    """Two ways through the same work gave different results."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one way: units (samples or questions) per second of one core, and how far its results are from the other's."""

    per_second: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of one way: the peak above the loaded model, and what autograd saves (of answers nothing)."""

    peak_bytes: int
    saved_bytes: int


def ways_of(case: str) -> dict[str, Make]:
    """The conventional way and ours, by name."""
    return {CONVENTIONAL: CASES[case].conventional, **CASES[case].ours}


def differences(ways: dict[str, Way], *, is_exact: bool) -> dict[str, float]:
    """The largest difference of each way's results from the conventional one's.

    Raises:
        DifferenceError: it is more than `TOLERANCE`, or anything at all where `is_exact`; says what differs.
    """
    wanted = ways[CONVENTIONAL].result()
    found = {}
    for name, way in ways.items():
        result = way.result()
        if result.keys() != wanted.keys():
            raise DifferenceError(f"{name} has other results: {sorted(result.keys() ^ wanted.keys())[:3]}")
        gaps = {what: float((result[what] - wanted[what]).abs().max()) for what in wanted}
        for what, gap in gaps.items():
            if not gap <= (0 if is_exact else TOLERANCE):  # nor is what is no number
                raise DifferenceError(f"{name} differs from the conventional way in {what} by {gap:.1e}")
        found[name] = max(gaps.values())
    return found


def speeds(width: str, case: str, rounds: int) -> dict[str, Speed]:
    """Every way of a case, checked and then timed in turns."""
    at_once = CASES[case].at_once
    ways = {name: make(WIDTHS[width], at_once) for name, make in ways_of(case).items()}
    gaps = differences(ways, is_exact=CASES[case].is_exact)
    seconds = seconds_of({name: way.run for name, way in ways.items()}, rounds)
    return {name: Speed(per_second=at_once / seconds[name], difference=gaps[name]) for name in ways}


def memory(width: str, case: str, name: str) -> Memory:
    """What one way needs, done once in a process of its own."""
    way = ways_of(case)[name](WIDTHS[width], CASES[case].at_once)
    saved: list[int] = []
    peak = peak_bytes(lambda: saved.append(saved_bytes(way.run, way.model)))
    return Memory(peak_bytes=peak, saved_bytes=saved[0])


def report(width: str, case: str, rounds: int) -> list[str]:
    """A row of the table for every way of a case."""
    fast = apart(speeds, width, case, rounds)
    needed = {name: apart(memory, width, case, name) for name in fast}
    return [_row(width, case, name, fast, needed) for name in fast]


def _row(width: str, case: str, name: str, fast: dict[str, Speed], needed: dict[str, Memory]) -> str:
    speed, usual = fast[name], fast[CONVENTIONAL]
    of, usually = needed[name], needed[CONVENTIONAL]
    cells = (
        width,
        case,
        name,
        f"{speed.per_second:.2f}",
        f"{speed.per_second / usual.per_second:.2f} x",
        _of(of.peak_bytes, usually.peak_bytes),
        _of(of.saved_bytes, usually.saved_bytes),
        f"{speed.difference:.0e}",
        GOALS.get(f"{case}, {name}", "") if width == "middle" else "",
    )
    return f"| {' | '.join(cells)} |"


def _of(found_bytes: int, usual_bytes: int) -> str:
    return f"{found_bytes / 1e6:.0f} MB, {found_bytes / usual_bytes:.2f} x" if usual_bytes else "-"


HEAD = (
    "| width | work | way | samples/s | speed | peak above the model | saved by autograd | differs by | goal |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row. Returns 0, or 1 where two ways differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model")
    parser.add_argument("--width", choices=sorted(WIDTHS), action="append", help="of the model; both by default")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="the work; all of it by default")
    parser.add_argument("--rounds", type=int, default=5, help="in which the ways take turns (5)")
    parser.add_argument(
        "--malloc", choices=MALLOCS, default="kept", help="what it does with memory that is free (kept)"
    )
    given = parser.parse_args(arguments)
    print(*HEAD, sep="\n", flush=True)
    try:
        with environment(given.malloc):
            for width, case in product(given.width or WIDTHS, given.case or CASES):
                print(*report(width, case, given.rounds), sep="\n", flush=True)
    except DifferenceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
