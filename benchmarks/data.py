"""Our data path against the conventional way: speed and memory, as ratios.

python -m benchmarks.data
python -m benchmarks.data --case "list conversion" --units 20000000 --way ours

Each way of a case does the same work in a process of its own, on the same files, one after the other. What they make is
compared in `tests/benchmarks/test_data.py`, at a size at which that is quick.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.data_case import Case
from benchmarks.data_lists import CONVERSION, FILTERING
from benchmarks.measure import apart, environment, peak_bytes

CASES: dict[str, Case] = {"list conversion": CONVERSION, "table filtering": FILTERING}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one way: seconds of the clock and of all its threads' processors, and the peak above the bare process."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


def measured(case: str, way: str, folder: Path) -> Measured:
    """What one way needs, done once in this process."""
    times: list[float] = []

    def run() -> None:
        began, busy = time.perf_counter(), time.process_time()
        CASES[case].ways[way](folder)
        times.extend((time.perf_counter() - began, time.process_time() - busy))

    peak = peak_bytes(run)
    return Measured(seconds=times[0], processor_seconds=times[1], peak_bytes=peak)


def report(case: str, units: int, ways: Sequence[str]) -> list[str]:
    """A row of the table for each of these ways of a case, compared with the first."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        apart(CASES[case].prepare, folder, units)
        found = {way: apart(measured, case, way, folder) for way in ways}
    usual = next(iter(found.values()))
    return [_row(case, way, units, of, usual) for way, of in found.items()]


def _row(case: str, way: str, units: int, of: Measured, usual: Measured) -> str:
    cells = (
        f"{case}, {units:,} {CASES[case].unit}",
        way,
        f"{units / of.seconds:,.0f}",
        f"{usual.seconds / of.seconds:.2f} x",
        f"{usual.processor_seconds / of.processor_seconds:.2f} x",
        f"{of.peak_bytes / 1e6:,.0f} MB",
        CASES[case].goals.get(way, ""),
    )
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| work | way | a second | speed | speed per processor second | peak | goal |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="the work; all of it by default")
    parser.add_argument("--units", type=int, help="how many rows or pictures; each case has its own number")
    all_ways = sorted({way for case in CASES.values() for way in case.ways})
    parser.add_argument("--way", choices=all_ways, action="append", help="all by default; speeds are by the first's")
    given = parser.parse_args(arguments)
    print(*HEAD, sep="\n", flush=True)
    with environment("kept"):
        for case in given.case or CASES:
            ways = [way for way in CASES[case].ways if way in (given.way or CASES[case].ways)]
            if ways:
                print(*report(case, given.units or CASES[case].units, ways), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
