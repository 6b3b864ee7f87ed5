"""How long each part of the steps takes, also on a GPU, which is asked only when somebody wants to know."""

import time
from collections import deque
from typing import Any

import torch

PARTS = ("forward", "backward", "optimizer", "communication")


class _HostEvent:
    """A `torch.cuda.Event` of the host, which does at once what it is told."""

    def record(self) -> None:
        self._seconds = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end_event: "_HostEvent") -> float:
        """Milliseconds."""
        return (end_event._seconds - self._seconds) * 1000


class Clock:
    """The seconds of each of `PARTS`, summed over the steps since they were last read.

    On a GPU they are the seconds of its own stream, from event to event; to record one is not to wait for it.
    """

    def __init__(self, device: torch.device):
        self._is_cuda = device.type == "cuda"
        self._marks: deque[tuple[str | None, Any]] = deque()
        self._seconds = _nothing()

    def mark(self, part: str | None) -> None:
        """From here on time is spent on `part`, one of `PARTS`, or on none of them."""
        event = torch.cuda.Event(enable_timing=True) if self._is_cuda else _HostEvent()
        event.record()
        self._marks.append((part, event))
        self._sum_up()

    def read(self) -> dict[str, float]:
        """The seconds of each part since the last time, which are forgotten. Waits for the device."""
        if self._marks:
            self._marks[-1][1].synchronize()
        self._sum_up()
        told, self._seconds = self._seconds, _nothing()
        return told

    def _sum_up(self) -> None:
        """Sum what is over, so that no more marks are kept than the device is behind."""
        while len(self._marks) > 1 and self._marks[1][1].query():
            (part, begin), (_, end) = self._marks.popleft(), self._marks[0]
            if part is not None:
                self._seconds[part] += begin.elapsed_time(end) / 1000


def _nothing() -> dict[str, float]:
    return {part: 0.0 for part in PARTS}
