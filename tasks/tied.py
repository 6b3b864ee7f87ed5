"""A command that ends when the process that started it does, killed or not.

python -m tasks.tied PARENT COMMAND [ARGUMENT ...]
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

import psutil

PR_SET_PDEATHSIG = 1
END_SECONDS = 10.0


def tie_to(parent: int) -> bool:
    """Have the system end this process when `parent`, which started it, ends. False: that has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent


def run_tied(command: Sequence[str], environment: Mapping[str, str], messages: IO[bytes], seconds: float) -> int | None:
    """Run a command whose processes end with it, and with this process.

    Args:
        messages: where what it says on stderr goes.
        seconds: how long it may take.

    Returns:
        Its status; None if it took longer.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.tied", str(os.getpid()), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=messages,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that has not ended: it is asked, then it and all that it started are killed."""
    if process.poll() is not None:
        return
    root = psutil.Process(process.pid)
    tree = [root, *root.children(recursive=True)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def main(arguments: Sequence[str]) -> None:
    """Become the command, tied to its parent."""
    parent, *command = arguments
    if tie_to(int(parent)):
        os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
