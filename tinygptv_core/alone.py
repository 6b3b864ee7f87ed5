"""One run in a folder at a time."""

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinygptv_core.plain import ConfigError

PATIENCE_SECONDS = 30.0
"""So long a process of a run that was killed may take to end."""
LOOK_SECONDS = 0.2
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that has none."""


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
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise ConfigError(
                        f"another process trains in {folder}, perhaps one that outlived its torchrun. "
                        "Wait for it or stop it; the same command then goes on."
                    ) from None
                time.sleep(LOOK_SECONDS)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
        yield
