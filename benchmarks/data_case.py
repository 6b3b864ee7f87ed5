"""What `benchmarks/data.py` measures: the same work done in several ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work.

    Attributes:
        unit: what there are many of: rows, pictures.
        units: how many by default.
        prepare: writes what all ways read into a folder that is empty.
        ways: name -> does the work in that folder. The first is the conventional one, to which the others are compared.
        goals: name of a way -> what is aimed at.
    """

    unit: str
    units: int
    prepare: Callable[[Path, int], None] = field(repr=False)
    ways: Mapping[str, Callable[[Path], object]] = field(repr=False)
    goals: Mapping[str, str]
