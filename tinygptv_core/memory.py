"""How much memory a process has held at most."""

import ctypes
import gc
import re
import resource
from contextlib import suppress
from pathlib import Path

import torch


def forget_peak_memory(device: str) -> None:
    """Let `peak_memory_bytes` speak of this run alone, in a process that has had others before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError, AttributeError):  # not on every system, nor with every C library
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what they have freed is no part of this run
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: str) -> int:
    """The most memory that this process has held: of the GPU, or of the machine where there is none.

    What Linux says of the process itself comes first: `getrusage` starts with what the process held that started it.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        if told := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(told[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
