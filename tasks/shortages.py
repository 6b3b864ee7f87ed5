"""What a run runs out of, as errors tell it: room on a disk, memory; and what helps."""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tinygptv_core.shortage import chain

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "database or disk is full")
"""What libraries of other languages (SQLite, safetensors) make of these."""
FULL_BYTES = 1_000_000
"""With less that is free a file system counts as full."""

KILLED_WORDS = ("SIGKILL", "its worker process has died", "low on memory", "memory pressure")
"""What Ray says of a worker that ended without a word, and of one that it killed itself for the machine's memory."""
LESS_MEMORY = (
    "less is taken with --option micro_batch=1 (or a few: the numbers stay), --option gradient_checkpointing=true,\n"
    "  --option packed=true and --option loader_workers=0; none of it builds anything anew"
)


def has_no_room(error: BaseException) -> bool:
    """Whether a disk that is full is what `error` comes of."""
    return any(
        (isinstance(one, OSError) and one.errno in NO_ROOM) or any(words in str(one) for words in NO_ROOM_WORDS)
        for one in chain(error)
    )


def what_is_full(error: BaseException, folders: Sequence[Path]) -> str | None:
    """In words which file system is full, if that is what `error` comes of, or if one of `folders` lies on one."""
    named = [Path(os.fsdecode(one.filename)) for one in chain(error) if isinstance(one, OSError) and one.filename]
    there = [_there(path) for path in (*named, *folders)]
    full = next((path for path in there if _is_full(path)), None)
    if full is None and not has_no_room(error):
        return None
    return f"no space left on {_words(full or there[0])}\n  free some of it"


def why_workers_ended(told: str, oom_kills: int) -> str:
    """What a person reads of training processes that ended for good.

    Args:
        told: what Ray says of it.
        oom_kills: how many processes the system has killed for memory meanwhile, as far as it tells.
    """
    if any(words in told for words in NO_ROOM_WORDS):
        return f"no space left for its states or messages: {told}"
    if oom_kills:
        return f"the system killed some process here because memory ran out.\n  {LESS_MEMORY}\n  {told}"
    if any(words in told for words in KILLED_WORDS):
        likely = (
            "a training process ended without a word, as one does that is killed (SIGKILL): most likely memory ran out"
        )
        return f"{likely}.\n  {LESS_MEMORY}\n  {told}"
    return told


def num_oom_kills(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes have been killed for memory; 0 where that cannot be told.

    Of the control group that this process is in (cgroup v2), or of the whole machine where that does not count.
    """
    for path in (*_own_events(proc, groups), proc / "vmstat"):
        with suppress(OSError):
            counters = dict(line.split() for line in path.read_text().splitlines())
            if "oom_kill" in counters:
                return int(counters["oom_kill"])
    return 0


def _own_events(proc: Path, groups: Path) -> list[Path]:
    """Where the control group of this process counts what happened to its memory."""
    with suppress(OSError):
        lines = (proc / "self" / "cgroup").read_text().splitlines()
        return [groups / line.removeprefix("0::/") / "memory.events" for line in lines if line.startswith("0::/")]
    return []


def _there(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def _is_full(path: Path) -> bool:
    found = os.statvfs(path)
    lacks_files = found.f_files > 0 and found.f_favail == 0
    return found.f_bavail * found.f_frsize < FULL_BYTES or lacks_files


def _words(path: Path) -> str:
    found = os.statvfs(path)
    mount = next(one for one in (path, *path.parents) if os.path.ismount(one))
    free, size = found.f_bavail * found.f_frsize / 1e6, found.f_blocks * found.f_frsize / 1e6
    files = ", and it can hold no more files" if found.f_files > 0 and found.f_favail == 0 else ""
    return f"the file system at {mount}, which holds {path} ({free:,.1f} of {size:,.1f} MB free{files})"
