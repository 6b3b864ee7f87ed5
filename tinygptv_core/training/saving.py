"""When a run saves what it goes on from and when it stops: agreed among its processes, written beside its steps."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from tinygptv_core.run import RunSpec
from tinygptv_core.training.states import Position, State, save_state

AskedToStop = Callable[[], bool]
"""Whether this process has been asked to save and stop."""

NOTHING, SAVE, STOP = 0, 1, 2


class StoppedError(Exception):
    """A run has stopped because it was asked to; its state is saved, and no step is lost."""


def never() -> bool:
    """Nobody asks."""
    return False


@contextmanager
def asked_by_signals() -> Iterator[AskedToStop]:
    """For as long as the block lasts SIGTERM and SIGINT ask to stop and do nothing else. In the main thread only."""
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Saver:
    """Saves a run's states and stops it where that is asked for. Every process has one and calls it after every step.

    Whoever is asked to stop, all processes do so after the same step: that after the step in which it was asked, or
    that step itself where there is one process.
    """

    def __init__(self, spec: RunSpec, *, rank: int, world_size: int, asked_to_stop: AskedToStop):
        self._stage, self._options, self._rank, self._world_size = spec.stage, spec.options, rank, world_size
        self._asked_to_stop, self._clock = asked_to_stop, time.monotonic()
        self._wishes = _Wishes() if world_size > 1 else None
        self._writer = Writer(spec.work, spec.options.keep_states)

    def after(self, step: int, state: Callable[[], State]) -> None:
        """Save `state` if it is time to.

        Args:
            step: finished steps.
            state: called by all processes at the same steps, for it asks `Engine.state`.

        Raises:
            StoppedError: the run was asked to stop and is saved; in every process. After the last step it ends instead.
            OSError: the state before this one could not be written.
        """
        wish = self._wishes.exchange(self._wish()) if self._wishes else self._wish()
        if step == self._stage.schedule.steps:
            return
        if wish != NOTHING or step % self._options.save_every_steps == 0:
            now = state()
            if self._rank == 0:
                self._writer.write(now.position, now.tensors)
        if wish == STOP:
            self._writer.wait()
            if self._wishes:
                self._wishes.wait_for_all()
            raise StoppedError(f"{self._stage.name} was asked to stop. It is saved and goes on from step {step}")

    def _wish(self) -> int:
        if self._asked_to_stop():
            return STOP
        seconds, now = self._options.save_every_seconds, time.monotonic()
        if self._rank > 0 or seconds is None or now - self._clock < seconds:  # one clock decides for all
            return NOTHING
        self._clock = now
        return SAVE

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._wishes:
            self._wishes.close()
        self._writer.close()
        if error is None:
            self._writer.wait()


class _Wishes:
    """Tells every process the greatest number that any of them has given.

    It travels between the hosts while the next step is computed, so that neither the step nor a GPU waits for it; and
    in a group of its own, where it can meet no other message.
    """

    def __init__(self) -> None:
        self._group: Any = distributed.new_group(backend="gloo")
        self._number, self._sent = torch.zeros((), dtype=torch.int64), None

    def exchange(self, number: int) -> int:
        """The greatest of the call before this one."""
        greatest = NOTHING
        if self._sent is not None:
            self._sent.wait()
            greatest = int(self._number)
        self._number.fill_(number)
        self._sent = distributed.all_reduce(self._number, distributed.ReduceOp.MAX, self._group, async_op=True)
        return greatest

    def wait_for_all(self) -> None:
        """Until every process has come here."""
        distributed.barrier(self._group)

    def close(self) -> None:
        """Give the group back."""
        distributed.destroy_process_group(self._group)


class Writer:
    """Writes states in a thread, one at a time; what goes wrong there is raised here, by the next call."""

    def __init__(self, folder: Path, keep: int):
        self._folder, self._keep = folder, keep
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saving")
        self._at_work: Future[None] | None = None
        self._held: dict[str, Tensor] = {}

    def write(self, position: Position, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state to the host's memory, and write it from there while its tensors change.

        Of a GPU nothing is waited for: it copies between two of its steps.

        Raises:
            OSError: the state before this one could not be written.
        """
        self.wait()
        self._held = {name: self._copied(name, tensor) for name, tensor in tensors.items()}
        copied = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            copied = torch.cuda.Event()
            copied.record()
        self._at_work = self._threads.submit(self._write, State(position=position, tensors=self._held), copied)

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        """A copy in the memory of the one before."""
        held = self._held.get(name)
        if held is None or (held.shape, held.dtype) != (tensor.shape, tensor.dtype):
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return held.copy_(tensor.detach(), non_blocking=True)

    def _write(self, state: State, copied: torch.cuda.Event | None) -> None:
        if copied:
            copied.synchronize()
        save_state(self._folder, state, self._keep)

    def wait(self) -> None:
        """Until nothing is being written. Raises OSError when that failed."""
        if self._at_work is not None:
            at_work, self._at_work = self._at_work, None
            at_work.result()

    def close(self) -> None:
        """Let the thread finish what it writes, and end."""
        self._threads.shutdown()
