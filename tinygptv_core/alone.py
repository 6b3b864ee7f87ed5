"""One run in a folder at a time, and the system's locks that see to it: whoever dies has given his back."""

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tinygptv_core.plain import ConfigError

PATIENCE_SECONDS = 30.0
"""So long a process of a run that was killed may take to end."""
LOOK_SECONDS = 0.2
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that has none."""


def try_lock(file: IO[str], kind: int) -> bool | None:
    """Whether the lock was got, at once; None where the file system has no locks.

    Args:
        kind: `fcntl.LOCK_EX` or `LOCK_SH`. It is held until `file` is closed.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While this is held no other process holds it, which ends with the process at the latest.

    Where the file system has no locks, nothing is held.

    Raises:
        ConfigError: another process has held it for `PATIENCE_SECONDS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + PATIENCE_SECONDS
    with (folder / "lock").open("w") as file:
        while try_lock(file, fcntl.LOCK_EX) is False:
            if time.monotonic() >= ends:
                raise ConfigError(
                    f"another process trains in {folder}, perhaps one that outlived its torchrun. "
                    "Wait for it or stop it; the same command then goes on."
                )
            time.sleep(LOOK_SECONDS)
        yield
