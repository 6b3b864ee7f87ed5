"""Files that become another as a whole, and what killed processes left of them."""

import os
import socket
import threading
from pathlib import Path


def is_gone(pid: str) -> bool:
    """Whether `pid` is the number of a process of this machine that is no longer there."""
    return pid.isdecimal() and not Path("/proc", pid).exists()


def draft_of(path: Path) -> Path:
    """Where this thread writes what becomes `path`; first removes drafts of it whose process is no longer there."""
    prefix = f"{path.name}.{socket.gethostname()}-"  # of another machine's processes nobody here can tell
    for left in path.parent.glob(f"{prefix}*.partial"):
        if is_gone(left.name.removeprefix(prefix).split("-")[0]):
            left.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}-{threading.get_ident()}.partial")


def write_whole(path: Path, text: str) -> None:
    """`text` at `path`, durably and at once: whoever looks sees the old file or the new one, never half of one."""
    draft = draft_of(path)
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
