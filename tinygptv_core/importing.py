"""Imports of large libraries, sooner."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_INSIDE: list[bool] = []
"""For each thread that is inside, whether garbage was collected before the first of them came."""


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage meanwhile, in all threads of the process, until the last that is inside has left.

    What a module makes, stays; each collection would look through all of it once more (`benchmarks/importing.py`).
    """
    with _LOCK:
        _INSIDE.append(_INSIDE[0] if _INSIDE else gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _LOCK:
            if _INSIDE.pop() and not _INSIDE:
                gc.enable()
