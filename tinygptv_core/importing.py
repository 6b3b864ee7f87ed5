"""Imports of large libraries, sooner."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage meanwhile, which takes a tenth of their time off (`python -m benchmarks.importing`).

    What a module makes, stays; each collection would look through all of it once more.
    """
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()
