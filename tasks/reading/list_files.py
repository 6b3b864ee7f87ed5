"""Which files a user means with `--list`, and a copy of those that are elsewhere.

Addresses of other machines are read by fsspec (http, s3, gs, hf ...). They are the user's own choice and pass no guard,
unlike the pictures' addresses that a list holds.
"""

import hashlib
import shutil
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tasks.reading.lists import ENDINGS, list_form
from tasks.request import Step, StepFolders
from tasks.tables import clear
from tasks.typed_paths import typed_path
from tinygptv_core.file_systems import file_system_of
from tinygptv_core.plain import ConfigError

COPY = Step(name="copy", kind="source", version=1)
LOCAL = "file://"
READ_BYTES = 1 << 20
# How fsspec's ways call what changes with a file, though its size does not.
VERSIONS = frozenset(
    ("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "modify", "created", "sha", "blob_id")
)


def lists_named(typed: str) -> tuple[str, ...]:
    """The absolute paths and addresses of the lists that `typed` names, in order.

    Args:
        typed: a path or address, several with commas between, a pattern with `*`, or a folder, whose lists are taken by
            name. A pattern that fits nothing is taken for a path.

    Raises:
        ConfigError: it names none, or an address cannot be asked for what it holds.
    """
    is_one = typed and typed_path(typed).exists()
    parts = [typed] if is_one else [part.strip() for part in typed.split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"{typed!r} names no list; give a path or an address, or several with commas between")
    return tuple(name for part in parts for name in (_far(part) if is_far(part) else _near(part)))


def is_far(name: str) -> bool:
    """Whether `name` is an address rather than a path on this machine."""
    return "://" in name and not name.startswith(LOCAL)


def _near(part: str) -> list[str]:
    path = typed_path(part.removeprefix(LOCAL))
    if part.startswith(LOCAL) and not path.exists():
        path = typed_path(unquote(part.removeprefix(LOCAL)))  # as file managers and browsers write addresses
    if path.is_dir():
        if not (found := [str(file) for file in sorted(path.iterdir()) if _is_list(file)]):
            raise ConfigError(f"{path} holds no list; a list's name ends in {ENDINGS}")
        return found
    found = sorted(glob(str(path))) if has_magic(part) and not path.exists() else []
    return found or [str(path)]


def _is_list(file: Path) -> bool:
    try:
        return bool(list_form(file)) and file.is_file()
    except ConfigError:
        return False


def _far(part: str) -> list[str]:
    files, path = file_system_of(part)
    try:
        found = sorted(files.glob(path)) if has_magic(part) else [path]
    except Exception as error:  # each of fsspec's ways has its own errors
        raise ConfigError(f"{part} cannot be read: {_why(error)}") from error
    if not found:
        raise ConfigError(f"{part} names no list: there is no file that fits it")
    return [files.unstrip_protocol(name) for name in found]


def state_of(address: str) -> dict[str, str]:
    """What is known of the list at `address`; something of it changes when the list does.

    That is its size, and what is told of its version. Where nothing is told of that, as by a web server that gives
    neither `ETag` nor `Last-Modified`, the list is read for its SHA-256.

    Raises:
        ConfigError: there is none, it cannot be read, or its name has no format of ours.
    """
    list_form(Path(_file_name(address)))
    files, path = file_system_of(address)
    try:
        about = files.info(path)
        told = {name: str(about[name]) for name in ("size", *VERSIONS) if about.get(name) is not None}
        if not told.keys() & VERSIONS:
            told["sha256"] = _sha256(files, path)
    except Exception as error:  # each of fsspec's ways has its own errors
        raise ConfigError(f"{address} cannot be read: {_why(error)}") from error
    return {"address": address, **told}


def _why(error: Exception) -> str:
    """What fsspec's error comes from: to it a refused connection is a file that is not there."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def _sha256(files: Any, path: str) -> str:
    digest = hashlib.sha256()
    with files.open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _file_name(address: str) -> str:
    return Path(address.partition("?")[0]).name


def copy_lists(addresses: Sequence[str], folders: StepFolders) -> None:
    """The files at `addresses`, in their order by name."""
    clear(folders.out)
    for number, address in enumerate(addresses):
        files, path = file_system_of(address)
        with files.open(path, "rb") as there, (folders.out / f"{number:05d}-{_file_name(address)}").open("wb") as here:
            shutil.copyfileobj(there, here, READ_BYTES)
