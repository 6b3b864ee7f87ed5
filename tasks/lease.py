"""Locks between processes: a lease for what one builds, and a lock that all who use a folder share.

A lease names its holder, and a dead holder's is taken over, as is that of another machine's which was silent for long;
should he wake, he leaves it as it is, and can ask whether it is still his. It only saves work: two builds of one key at
once would both be right, and the first to be noted wins. The shared lock is the system's: whoever dies has given it
back.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tinygptv_core.alone import try_lock
from tinygptv_core.drafts import draft_of

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease: host, that host's boot, process, and when the process started (clock ticks)."""

    host: str
    boot: str
    pid: int
    started: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


UNKNOWN = Holder(host="an unknown machine", boot="", pid=0, started=0)
"""Of a lease that cannot be read; dead when that has been silent."""


def myself(pid: int | None = None) -> Holder:
    """This process as a holder, or another of this machine."""
    pid = os.getpid() if pid is None else pid
    return Holder(host=socket.gethostname(), boot=_boot(), pid=pid, started=_started(pid) or 0)


def is_alive(holder: Holder) -> bool:
    """Whether a holder on this machine is still there; one on another is taken to be."""
    me = myself()
    if holder.host != me.host:
        return True
    return holder.boot == me.boot and _started(holder.pid) == holder.started


@contextmanager
def lease(path: Path, waiting: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Hold the lease at `path`; while another holds it, wait, after saying so once to `waiting`.

    Gives what tells whether it is still ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine, told = myself(), False
    while not _take(path, mine):
        _bury(path)
        if (holder := _holder(path)) is None:  # it was a dead holder's, or has been given back
            continue
        if not told:
            waiting(f"waits for {holder}, which is building the same")
            told = True
        time.sleep(POLL_SECONDS)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, mine, stop), daemon=True)
    beat.start()
    try:
        yield lambda: _holder(path) == mine
    finally:
        stop.set()
        beat.join()
        _remove(path, mine)


def held(path: Path) -> Holder | None:
    """Who holds the lease at `path`; None if nobody does who is alive."""
    holder = _holder(path)
    return None if holder is None or _is_dead(holder, path) else holder


@contextmanager
def in_use(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock at `path` beside others who do; while one has it alone, wait, after saying so to `waiting`.

    A file system without locks keeps nobody from working: nobody can have it alone there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if try_lock(file, fcntl.LOCK_SH) is False:
            waiting("waits for a cleaning of the store")
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def unless_in_use(path: Path) -> Iterator[bool]:
    """Try to hold the lock at `path` alone. Gives whether that is so; it is not where the file system has no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        yield try_lock(file, fcntl.LOCK_EX) is True


def _take(path: Path, mine: Holder) -> bool:
    """Write the lease if nobody has it."""
    draft = draft_of(path)
    draft.write_text(json.dumps(asdict(mine)))
    try:
        os.link(draft, path)  # fails when the lease exists; what it holds is never half written
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _bury(path: Path) -> None:
    """Remove the lease of a holder that is dead."""
    holder = _holder(path)
    if holder is not None and _is_dead(holder, path):
        _remove(path, holder)


def _remove(path: Path, holder: Holder) -> None:
    """Remove the lease if it is that holder's: another may have taken it over."""
    if _holder(path) != holder:
        return
    grave = draft_of(path)
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    if _holder(grave) != holder:  # taken over meanwhile: give it back
        with suppress(FileExistsError):
            os.link(grave, path)
    grave.unlink()


def _is_dead(holder: Holder, path: Path) -> bool:
    me = myself()
    if (holder.host, holder.boot) == (me.host, me.boot):
        return _started(holder.pid) != holder.started
    try:
        return time.time() - path.stat().st_mtime > SILENT_SECONDS
    except FileNotFoundError:
        return False


def _holder(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # a machine that lost its power may leave an empty file
        return UNKNOWN


def _beat(path: Path, mine: Holder, stop: threading.Event) -> None:
    """Say now and then that the holder lives, as long as the lease is his."""
    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):  # it is gone, or its file system is away: the next beat looks again
            if _holder(path) == mine:
                os.utime(path)


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _started(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when there is no such process (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
