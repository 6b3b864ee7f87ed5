"""What a step makes: a folder named by its content."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tinygptv_core.plain import sha256_of

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A sealed folder (or a user's file): its kind, the SHA-256 that says what it is, and where it lies."""

    kind: str
    digest: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a folder: POSIX path below it, size in bytes, SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def members_of(folder: Path) -> tuple[Member, ...]:
    """Every file below `folder`, sorted by path.

    Raises:
        ValueError: something there is neither a plain file nor a folder (a link could change later).
    """
    found: list[Member] = []
    for base, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(base, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path} is neither a plain file nor a folder; an artifact holds nothing else")
        for path in (Path(base, name) for name in names):
            relative = path.relative_to(folder).as_posix()
            found.append(Member(path=relative, bytes=path.stat().st_size, sha256=sha256_of_file(path)))
    return tuple(sorted(found, key=lambda member: member.path))


def digest_of(members: tuple[Member, ...]) -> str:
    """The digest of a folder: SHA-256 of its manifest."""
    return sha256_of(members)


def file_artifact(path: Path, kind: str) -> Artifact:
    """A user's own file as an input: its digest is the SHA-256 of its bytes."""
    return Artifact(kind=kind, digest=sha256_of_file(path), path=path)
