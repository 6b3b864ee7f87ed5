"""A command that ends when the process that started it does, killed or not.

python -m flows.tied PARENT COMMAND [ARGUMENT ...]
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def tie_to(parent: int) -> bool:
    """Have the system end this process when `parent`, which started it, ends. False: that has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent


def main(arguments: Sequence[str]) -> None:
    """Become the command, tied to its parent."""
    parent, *command = arguments
    if tie_to(int(parent)):
        os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
