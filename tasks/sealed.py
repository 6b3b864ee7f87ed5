"""Sealed folders: a digest names one, and its bytes are those that were sealed or are said to be damaged.

<kind>/<digest[:12]>/         the sealed folder; the SHA-256 of its manifest is the digest
stamps/<kind>-<digest>.json   when each sealed file was last written, to spare hashing it again
damaged/                      what was moved away for the same to be sealed anew
"""

import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tasks.request import SHORT
from tasks.stamps import FILE_STAMPS, remembered
from tasks.whole_files import write_json
from tinygptv_core.artifact import Artifact, Member, digest_of, members_of, sha256_of_file
from tinygptv_core.drafts import write_whole
from tinygptv_core.plain import ConfigError, canonical_json

MANIFEST = "manifest.json"
USERS_FOLDER = "folder"
"""The kind of a folder of the user's own, as an input."""


class DamagedError(Exception):
    """A sealed folder is not what was sealed, or a file of the user's not what it was when it was asked for."""


class SealedFolders:
    """The artifacts below the folder of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stamps = root / "stamps"
        self._hashed: set[str] = set()

    def at(self, kind: str, digest: str) -> Artifact:
        """The artifact of that digest and where it lies, if it is there."""
        return Artifact(kind=kind, digest=digest, path=self.root / kind / digest[:SHORT])

    def find(self, kind: str, digest: str) -> Artifact:
        """The sealed folder of that kind whose digest begins with `digest`.

        Raises:
            ConfigError: there is none, or more than one, or it is damaged; says which there are.
        """
        folders = sorted((self.root / kind).glob("*")) if (self.root / kind).is_dir() else []
        found = [path for path in folders if digest and (path.name.startswith(digest) or digest.startswith(path.name))]
        if len(found) != 1:
            there = ", ".join(path.name for path in folders) or "none"
            raise ConfigError(f"{kind} {digest}: {len(found)} of that name in {self.root}. There are: {there}.")
        manifest = found[0] / MANIFEST
        artifact = self.at(kind, sha256_of_file(manifest) if manifest.is_file() else found[0].name)
        damage = self.damage(artifact)
        if damage or not artifact.digest.startswith(digest):
            raise ConfigError(f"{found[0]} is damaged: {damage or 'it holds ' + artifact.digest[:SHORT]}")
        return artifact

    def seal(self, folder: Path, kind: str) -> Artifact:
        """Write the manifest last and rename the folder into place, unless the very same is there.

        Raises:
            ValueError: there is nothing in it.
        """
        members = members_of(folder)
        if not members:
            raise ValueError(f"the step wrote nothing into {folder}")
        artifact = self.at(kind, digest_of(members))
        if artifact.path.exists() and self.damage(artifact):
            grave = self.root / "damaged" / f"{kind}-{artifact.digest[:SHORT]}-{time.time_ns()}"
            grave.parent.mkdir(exist_ok=True)
            artifact.path.rename(grave)
        if not artifact.path.exists():
            for member in members:
                (folder / member.path).chmod(0o444)
            draft = folder.with_name(MANIFEST)  # not inside, where a kill would leave half of it among the members
            write_whole(draft, canonical_json(members))  # so that its own SHA-256 is the digest
            draft.replace(folder / MANIFEST)
            artifact.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # another process sealed the same bytes meanwhile
                folder.rename(artifact.path)
            self._stamp(artifact, members)
        return artifact

    def verify(self, artifact: Artifact) -> str | None:
        """What is wrong with a sealed folder, or None; all of it is hashed, whenever that was done before."""
        self.forget(artifact)
        return self.damage(artifact)

    def forget(self, artifact: Artifact) -> None:
        """Forget when its files were last written, so that they are hashed when it is next looked at."""
        self._stamps_path(artifact).unlink(missing_ok=True)

    def doubt(self, artifact: Artifact) -> None:
        """Have a sealed folder hashed when it is next looked at, if it was not hashed yet."""
        if artifact.digest not in self._hashed:
            self.forget(artifact)
            self._hashed.add(artifact.digest)

    def damage(self, artifact: Artifact) -> str | None:
        """What is wrong with a sealed folder, or None. Files that were touched since are hashed anew."""
        path = artifact.path / MANIFEST
        if not path.is_file():
            return "its manifest is missing" if artifact.path.exists() else "it is missing"
        if sha256_of_file(path) != artifact.digest:
            return "its manifest is not the one that was sealed"
        members = tuple(Member(**told) for told in json.loads(path.read_text()))  # the bytes are those that were sealed
        stamps = remembered(self._stamps_path(artifact))
        damage = _unlike(artifact.path, members, stamps)
        if damage is None and not stamps:
            self._stamp(artifact, members)
        return damage

    def require_whole(self, artifact: Artifact) -> None:
        """Hash what a build is about to read: once, and then again what was touched since.

        Raises:
            DamagedError: its bytes are not what was sealed, or what was looked at.
        """
        if artifact.kind == USERS_FOLDER:
            return  # no manifest says what is in it; the step that reads it looks whether it stays the same
        if artifact.path.is_file():
            self._require_same(artifact)
            return
        self.doubt(artifact)
        if damage := self.damage(artifact):
            raise DamagedError(f"{artifact.path}: {damage}. Run the same command again: what is damaged is built anew.")

    def _require_same(self, file: Artifact) -> None:
        found = sha256_of_file(file.path)
        if found == file.digest:
            return
        (self._stamps / FILE_STAMPS).unlink(missing_ok=True)  # so that no second try trusts them either
        raise DamagedError(
            f"{file.path} was changed since it was looked at\n  found   {found}\n  wanted  {file.digest}\n"
            "  once nothing writes to it any more, run the same command again: it takes the file as it is then"
        )

    def _stamp(self, artifact: Artifact, members: tuple[Member, ...]) -> None:
        path = self._stamps_path(artifact)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {m.path: (artifact.path / m.path).stat().st_mtime_ns for m in members})

    def _stamps_path(self, artifact: Artifact) -> Path:
        return self._stamps / f"{artifact.kind}-{artifact.digest[:SHORT]}.json"


def unseal(folder: Path) -> None:
    """Undo what a build that was killed while it sealed `folder` had done."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for base, _, names in os.walk(folder):
        for name in names:
            Path(base, name).chmod(0o644)


def _unlike(folder: Path, members: tuple[Member, ...], stamps: Mapping[str, int]) -> str | None:
    """The first thing in which `folder` is not what `members` say, in words. There may be thousands of them."""
    for member in members:
        path = f"{folder}/{member.path}"
        status = _status(path)
        if status is None:
            return f"{member.path} is missing"
        if status.st_size != member.bytes:
            return f"{member.path} has {status.st_size} bytes, not {member.bytes}"
        if status.st_mtime_ns != stamps.get(member.path) and sha256_of_file(Path(path)) != member.sha256:
            return f"{member.path} was changed"
    below = len(f"{folder}/")
    there = {os.path.join(base[below:], name) for base, _, names in os.walk(folder) for name in names}
    extra = there - {member.path for member in members} - {MANIFEST}
    return f"{min(extra)} was added" if extra else None


def _status(path: str) -> os.stat_result | None:
    """Of a plain file; None where there is none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None
