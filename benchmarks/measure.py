"""Seconds and bytes, of ways that take turns or have a process to themselves."""

import ctypes
import gc
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:  # what measures the data path needs no torch, whose memory would be counted
    from torch import Tensor, nn

Given = ParamSpec("Given")
Result = TypeVar("Result")

MALLOCS: Mapping[str, Mapping[str, str]] = {
    "kept": {
        # By default glibc gives large blocks back at once and the kernel must fill the next with zeros, which takes a
        # third of the time of a step that makes large ones. So it may keep all that it once had.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
        # What lies in the arena of a thread it would give back all the same, and Ray's worker is a thread.
        "MALLOC_ARENA_MAX": "1",
    },
    "default": {},
}
"""What glibc is told to do with memory that is free."""


@contextmanager
def environment(malloc: str) -> Iterator[None]:
    """Processes that are started meanwhile have one thread to compute with, and `malloc` of `MALLOCS`."""
    before = dict(os.environ)
    for name in MALLOCS["kept"]:
        os.environ.pop(name, None)
    os.environ.update({"OMP_NUM_THREADS": "1", **MALLOCS[malloc]})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def apart(function: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """What `function` (of a module) gives in a process of its own.

    Raises:
        BrokenProcessPool: the process ended before it had given anything.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # multiprocessing's Pool waits for ever for a dead one
        return pool.submit(function, *given, **named).result()


def seconds_of(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least processor seconds that each way took, in `rounds` in which they take turns.

    Of the processor, not of the clock, so that what else runs on the machine bears little on it.
    """
    for run in ways.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.process_time()
            run()
            taken[name].append(time.process_time() - began)
    return {name: min(seconds) for name, seconds in taken.items()}


def peak_bytes(run: Callable[[], object]) -> int:
    """How far this process's memory rises above what it holds now while `run` is called. Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status_bytes("VmRSS")
    run()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise ValueError(f"/proc/self/status has no {name}")
    return int(found[1]) * 1024


def saved_bytes(run: Callable[[], object], model: "nn.Module") -> int:
    """What autograd keeps for the gradients while `run` is called, beside the parameters and buffers of `model`.

    Right for one forward pass, while which no two tensors that are kept have one address.
    """
    from torch.autograd.graph import saved_tensors_hooks

    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())
