"""What a store remembers of files, so that nothing is hashed twice: in `stamps/`, of which all may be lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.whole_files import write_json
from tinygptv_core.artifact import sha256_of_file

FILE_STAMPS = "files.json"
"""The SHA-256 of the user's own files."""
FOLDER_STAMPS = "folders.json"
"""The digest of the user's own folders of pictures."""


def remembered(book: Path) -> dict[str, Any]:
    """What a file of `stamps/` says; nothing where it is missing or damaged, for all that it saves is hashing."""
    try:
        told = json.loads(book.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def hashed_once(book: Path, path: Path, stamp: list[Any], digest_of: Callable[[], str]) -> str:
    """The digest of `path`: the one in `book` while its `stamp` is the same, else what `digest_of` finds.

    Nothing is remembered before there is a store.
    """
    known = remembered(book)
    entry = known.get(str(path))
    if isinstance(entry, list) and entry[:-1] == stamp:
        return entry[-1]
    digest = digest_of()
    if book.parent.parent.is_dir():
        book.parent.mkdir(exist_ok=True)
        write_json(book, {**known, str(path): [*stamp, digest]})
    return digest


def remembered_digest(path: Path, stamps: Path) -> str:
    """The SHA-256 of a file; taken from what `stamps` remembers while the file and its size and times are the same.

    A time of writing can be set back to hide a change; that the file was changed at all cannot.
    """
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return hashed_once(stamps / FILE_STAMPS, path, stamp, lambda: sha256_of_file(path))
