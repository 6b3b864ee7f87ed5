"""Standard output and error of a command that goes on when nobody reads them any more: what is printed goes nowhere."""

import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TextIO

_OUT, _ERR = 1, 2
_unread = set[int]()
"""The numbers of those that go nowhere."""


def outlast_readers() -> None:
    """From here on no print, bar, or log fails, here or in a library, because who read it (`head`, `tee`) has gone.

    A stream that something else has replaced, as tests do, stays as it is.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _outlasting(sys.stdout, _OUT)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _outlasting(sys.stderr, _ERR)


def is_read() -> bool:
    """Whether anybody may still read what is printed to standard output, as far as was noticed."""
    return _OUT not in _unread


class _Pipe(FileIO):
    """The system's stream below one of Python's, where the writing itself fails."""

    def write(self, data: "memoryview | bytes") -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().write(data)
        except BrokenPipeError:
            _lead_nowhere(self.fileno())
            return len(data)


def _outlasting(stream: TextIO | None, number: int) -> TextIO:
    """`stream` as before, but for whom it fails; None is one that was closed when the command was started."""
    if not isinstance(stream, TextIOWrapper):
        _lead_nowhere(number)
        return open(number, "w", closefd=False)
    pipe = _Pipe(number, "w", closefd=False)
    return TextIOWrapper(
        pipe if stream.write_through else BufferedWriter(pipe),  # pyright: ignore[reportArgumentType]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _lead_nowhere(number: int) -> None:
    """For the processes that this one starts later, too."""
    _unread.add(number)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == number:  # which was free
        os.set_inheritable(number, True)
        return
    os.dup2(nowhere, number)
    os.close(nowhere)
