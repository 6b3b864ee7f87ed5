"""What the processes of a run tell each other. Every one of them calls these, at the same place."""

from typing import Any, TypeVar

import torch.distributed as distributed

T = TypeVar("T")


def gathered(value: T, world_size: int) -> list[T]:
    """Every process's value, in order of rank."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    distributed.all_gather_object(values, value)
    return values


def first_told(value: T | None, world_size: int) -> T | None:
    """The value of the first process that has one, in every process; None where none has."""
    return next((told for told in gathered(value, world_size) if told is not None), None)
