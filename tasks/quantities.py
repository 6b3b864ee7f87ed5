"""Quantities as people say them, and as much of what is long or many as they want to see."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def duration(seconds: float) -> str:
    """0.31 -> "0.3 s", 75 -> "1 min 15 s", 7260 -> "2 h 1 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(number: float) -> str:
    """1_500_000_000 bytes -> "1.5 GB"."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= one:
            return f"{number / one:.1f} {unit}"
    return f"{number:.0f} bytes"


def known(number: float | None, form: Callable[[float], str]) -> str:
    """The number in that form; "not known" where there is none."""
    return "not known" if number is None else form(number)


def loss(nats: float) -> str:
    """1.40746 -> "1.407"."""
    return f"{nats:.3f}"


def counted(number: int, thing: str) -> str:
    """1, "step" -> "1 step"; 2,000, "step" -> "2,000 steps"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """0.125 -> "12.5%"."""
    return f"{share:.1%}"


def interval(score: Mapping[str, Any]) -> str:
    """The `low` and `high` of a score or of its control: "10.0% to 15.0%"."""
    return f"{percent(score['low'])} to {percent(score['high'])}"


def cut(text: str, most: int, end: str) -> str:
    """`text`, or its beginning and `end` where it has more than `most` characters."""
    return text if len(text) <= most else text[: most - len(end)] + end


def first_of(told: Sequence[str], most: int, joint: str) -> str:
    """The first `most` of them, and how many more there are."""
    rest = [f"and {len(told) - most:,} more"] if len(told) > most else []
    return joint.join([*told[:most], *rest])


def spread(things: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` of the things, evenly from first to last."""
    return things[:: max(1, -(-len(things) // most))]
