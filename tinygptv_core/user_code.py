"""What is said of functions that users write, when they fail or return something else than they should."""

import math
import traceback
from pathlib import Path

FAILURES = (Exception, SystemExit)
"""How it may fail: a file that is also a script may want to end the process."""


def line_raised(error: BaseException, *ours: str) -> str:
    """Where the user's function stood that `error` comes from, whatever it called: "FILE, line N".

    Args:
        ours: the files of the calls that lead to the user's function.
    """
    calls = traceback.extract_tb(error.__traceback__)
    theirs = [call for call in calls if call.filename not in ours] or calls
    line = [call for call in theirs if call.filename == theirs[0].filename][-1]
    return f"{line.filename}, line {line.lineno}"


def cannot_be_run(path: Path, error: BaseException) -> str:
    """That the user's file raised `error` when it was run, and in which line (of a SyntaxError Python says it)."""
    frames, own = traceback.extract_tb(error.__traceback__), path.absolute()
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == own]
    where = f", line {lines[-1]}" if lines else ""
    return f"{path} cannot be run{where}: {type(error).__name__}: {error}"


def line_defined(function: object) -> str:
    """Where a function begins: "FILE, line N"; what it is called where it is not written in Python."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else repr(function)


def number_in(value: object) -> float:
    """`value` as a number; NaN where it is none, or a text that spells one."""
    if isinstance(value, str | bytes | bytearray):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]  # whatever it is
    except (ArithmeticError, RuntimeError, TypeError, ValueError):
        return math.nan
