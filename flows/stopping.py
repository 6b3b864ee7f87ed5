"""Commands that are stopped: what a person reads, also where there is nothing to save yet."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flows.statuses import FAILED

STOPPED = "tinygptv: stopped. The same command goes on from here."


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Meanwhile SIGTERM and Ctrl-C end the process there and then, with one line.

    An exception in their place would come out of any line of an import, or be lost where one may not be raised.
    """

    def end(number: int, frame: object) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{STOPPED}\n".encode())
        os._exit(FAILED)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    is_main = threading.current_thread() is threading.main_thread()
    replaced = {
        number: handler for number, handler in before.items() if is_main and handler not in (signal.SIG_IGN, None)
    }
    for number in replaced:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def cut_short_the_end(status: int) -> None:
    """Once Python takes the process down, have SIGTERM and Ctrl-C end it at once, with `status`: all is done by then.

    What it would still wait for, its Prefect server for one, ends by itself.
    """

    atexit.unregister(_end_at_once_with)  # what is said last holds
    atexit.register(_end_at_once_with, status)  # late, so that it is called before what others have registered


def _end_at_once_with(status: int) -> None:
    sys.stdout.flush()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(status))
