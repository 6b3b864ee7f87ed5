"""The store: a request's key gives a digest, a digest gives a folder.

The only place that decides whether something is built already. Two names for two questions: the
*key* says what was asked for, the *digest* says what it is (docs/adr/0001-identity-by-content.md).

    keys/<step>/<key>.json        which digest that request gave, and what is noted about it
    <kind>/<digest[:12]>/         the sealed folder
    work/<step>/<key>/            a build in progress, or what a killed one left
    notes/<key>/                  what is kept and hashed nowhere
    stamps/<kind>-<digest>.json   when each sealed file was last written, to spare hashing it again
    leases/<key>                  who is building it now
    in-use                        locked by whoever reads or builds, together, and by who cleans, alone
"""

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.lease import held, in_use, lease
from tasks.request import SHORT, Inputs, Request, Step, StepFolders, difference, digests, nearest, request_identity
from tasks.whole_files import read_whole
from tinygptv_core.artifact import Artifact, Member, digest_of, members_of, sha256_of_file
from tinygptv_core.drafts import write_whole
from tinygptv_core.plain import ConfigError, canonical_json, sha256_of

MANIFEST = "manifest.json"
FORCED = "asked for with --from"
FILE_STAMPS = "files.json"
"""In `stamps/`: the SHA-256 of the user's own files, to spare hashing them again."""
RECORD_NAMES = frozenset({"name", "step", "version", "config", "inputs", "digest", "others", "noted"})
"""What a file of `keys/` has."""
USERS_FOLDER = "folder"
"""The kind of a folder of the user's own, as an input."""

RecordsOf = Callable[[str], Mapping[str, Mapping[str, Any]]]
"""`Store.records_of`, or what keeps its answers."""


@dataclass(frozen=True, kw_only=True)
class StoreLookup:
    """What the store says of a request: the artifact, if it can be served, and why or why not."""

    key: str
    artifact: Artifact | None
    why: str


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What became of a request."""

    name: str
    key: str
    action: Literal["build", "reuse"]
    why: str
    seconds: float
    artifact: Artifact


class DamagedError(Exception):
    """A sealed folder is not what was sealed, or a file of the user's not what it was when it was asked for."""


class TakenOverError(RuntimeError):
    """Another machine has gone on with a build whose machine was silent for long; it seals what there is to seal."""


class Store:
    """Artifacts below one folder, shared by every run on that home."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._hashed: set[str] = set()

    def has_records(self) -> bool:
        """Whether anything was ever built here."""
        return any((self.root / "keys").glob("*/*.json"))

    def key(self, request: Request, inputs: Inputs) -> str:
        """SHA-256 of what is asked for: step, version, config and the digests of the inputs."""
        return sha256_of(request_identity(request, inputs))

    def in_use(self, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """While this is held nothing is removed: of a run's artifacts, those between two builds too.

        Args:
            waiting: told once while a cleaning has to end first.
        """
        return in_use(self.lock, waiting)

    @property
    def lock(self) -> Path:
        """What is locked meanwhile."""
        return self.root / "in-use"

    def notes(self, key: str) -> Path:
        """Where what is kept beside the artifact of `key` lies."""
        return self.root / "notes" / key

    def artifact(self, kind: str, digest: str) -> Artifact:
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
        artifact = self.artifact(kind, sha256_of_file(manifest) if manifest.is_file() else found[0].name)
        damage = self._damage(artifact)
        if damage or not artifact.digest.startswith(digest):
            raise ConfigError(f"{found[0]} is damaged: {damage or 'it holds ' + artifact.digest[:SHORT]}")
        return artifact

    def records_of(self, step: str) -> dict[str, dict[str, Any]]:
        """Key -> its record, of all builds of that step (`train`), the newest first."""
        paths = sorted((self.root / "keys" / step).glob("*.json"))
        found = {path.stem: record for path in paths if (record := _noted_at(path))}
        return dict(sorted(found.items(), key=lambda item: -item[1]["noted"]["time"]))

    def lookup(self, request: Request, inputs: Inputs, records_of: RecordsOf | None = None) -> StoreLookup:
        """Whether the request can be answered from the store, and why or why not. Changes nothing.

        Args:
            records_of: what earlier builds are asked of; who looks up many requests need not read them for each.
        """
        key = self.key(request, inputs)
        record = _noted_at(self._record_path(request.step, key))
        if record is None:
            why = _differs_from(request, inputs, (records_of or self.records_of)(request.step.name))
            return StoreLookup(key=key, artifact=None, why=why)
        artifact = self.artifact(request.step.kind, record["digest"])
        damage = self._damage(artifact)
        why = f"{artifact.path} is damaged: {damage}" if damage else request.gone(artifact)
        if why:
            return StoreLookup(key=key, artifact=None, why=why)
        return StoreLookup(
            key=key, artifact=artifact, why=f"same request and inputs as in run {record['noted']['run']}"
        )

    def lookup_verified(self, request: Request, inputs: Inputs) -> StoreLookup:
        """`lookup`, for who is about to read what is there: all of it is hashed, once, as a build's inputs are."""
        known = self.lookup(request, inputs)
        if known.artifact is None:
            return known
        self._doubt(known.artifact)
        return self.lookup(request, inputs)

    def build(
        self,
        request: Request,
        inputs: Inputs,
        aids: Inputs,
        *,
        noted: Mapping[str, Any],
        force: bool,
        waiting: Callable[[str], None],
    ) -> BuildResult:
        """The request's artifact: served when it is known, else made, sealed and noted.

        Args:
            noted: what is written beside the digest (run, commit, versions ...); bears on nothing.
            force: make it anew even if it is known; what comes out becomes the current digest.
            waiting: told once when another process is building the same.

        Raises:
            DamagedError: an input's bytes are not what was sealed.
            TakenOverError: this machine was silent for so long that another has gone on in the same folder.
        """
        before = time.monotonic()
        first = self.lookup(request, inputs)
        if first.artifact and not force:
            self._tidy(request.step, first.key)
            return _built(request, first, "reuse", before)
        with self.in_use(waiting), lease(self._lease(first.key), waiting) as is_ours:
            now = self.lookup(request, inputs)
            if now.artifact and not force:
                return _built(request, now, "reuse", before)
            for artifact in (*inputs.values(), *aids.values()):
                if artifact is not None:
                    self._check_hashes(artifact)
            artifact = self._make(_unless_taken_over(request, is_ours), inputs, aids, now, noted, force)
        why = FORCED if force else first.why
        return _built(request, StoreLookup(key=first.key, artifact=artifact, why=why), "build", before)

    def _make(
        self, request: Request, inputs: Inputs, aids: Inputs, known: StoreLookup, noted: Mapping[str, Any], force: bool
    ) -> Artifact:
        before = time.monotonic()
        work = self._work(request.step, known.key)
        if force and not (work / "forced").exists():  # a forced build that was killed is gone on with
            shutil.rmtree(work, ignore_errors=True)
        folders = StepFolders(out=work / "out", scratch=work / "scratch", notes=self.notes(known.key), forced=force)
        for folder in (folders.out, folders.scratch, folders.notes):
            folder.mkdir(parents=True, exist_ok=True)
        _unseal(folders.out)
        if force:
            (work / "forced").touch()
        read = {name: artifact for name, artifact in (*inputs.items(), *aids.items()) if artifact is not None}
        request.work(read, folders)
        artifact = self._seal(folders.out, request.step.kind)
        aided = {"aids": digests(aids)} if aids else {}
        noted = {**noted, **aided, "seconds": time.monotonic() - before}
        artifact = self._note(request, inputs, known.key, artifact, noted, force)
        shutil.rmtree(work)
        return artifact

    def _tidy(self, step: Step, key: str) -> None:
        """Remove the work of a build that was killed after it was noted; a forced one that was not goes on with its."""
        work, path = self._work(step, key), self._lease(key)
        is_forced = (work / "forced").exists() and (work / "out").exists()  # sealed, `out` is renamed into its place
        if work.exists() and not is_forced and held(path) is None:
            with lease(path, lambda text: None):
                shutil.rmtree(work, ignore_errors=True)

    def _seal(self, folder: Path, kind: str) -> Artifact:
        """Write the manifest last and rename the folder into place, unless the very same is there."""
        members = members_of(folder)
        if not members:
            raise ValueError(f"the step wrote nothing into {folder}")
        artifact = self.artifact(kind, digest_of(members))
        if artifact.path.exists() and self._damage(artifact):
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

    def adopt(self, folder: Path, kind: str) -> Artifact:
        """Seal a folder that came from another store."""
        return self._seal(folder, kind)

    def _note(
        self, request: Request, inputs: Inputs, key: str, artifact: Artifact, noted: Mapping[str, Any], force: bool
    ) -> Artifact:
        """Write down which digest the key gave. The first one stands, unless it is forced or damaged."""
        path = self._record_path(request.step, key)
        old = _noted_at(path)
        found = [artifact.digest]
        if old:
            first = self.artifact(request.step.kind, old["digest"])
            keep_first = not force and self._damage(first) is None
            artifact = first if keep_first else artifact
            found = list(dict.fromkeys([artifact.digest, *found, old["digest"], *old["others"]]))
        told = {"digest": found[0], "others": found[1:], "noted": dict(noted)}
        record = {"name": request.name, **request_identity(request, inputs), **told}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return artifact

    def verify(self, artifact: Artifact) -> str | None:
        """What is wrong with a sealed folder, or None; all of it is hashed, whenever that was done before."""
        self.forget(artifact)
        return self._damage(artifact)

    def forget(self, artifact: Artifact) -> None:
        """Forget when its files were last written, so that they are hashed when it is next looked at."""
        self._stamps_path(artifact).unlink(missing_ok=True)

    def _damage(self, artifact: Artifact) -> str | None:
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

    def _stamp(self, artifact: Artifact, members: tuple[Member, ...]) -> None:
        path = self._stamps_path(artifact)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {m.path: (artifact.path / m.path).stat().st_mtime_ns for m in members})

    def _check_hashes(self, artifact: Artifact) -> None:
        """Hash what a build is about to read: once, and then again what was touched since."""
        if artifact.kind == USERS_FOLDER:
            return  # no manifest says what is in it; the step that reads it looks whether it stays the same
        if artifact.path.is_file():
            self._check_file(artifact)
            return
        self._doubt(artifact)
        if damage := self._damage(artifact):
            raise DamagedError(f"{artifact.path}: {damage}. Run the same command again: what is damaged is built anew.")

    def _check_file(self, artifact: Artifact) -> None:
        found = sha256_of_file(artifact.path)
        if found == artifact.digest:
            return
        (self.root / "stamps" / FILE_STAMPS).unlink(missing_ok=True)  # so that no second try trusts them either
        raise DamagedError(
            f"{artifact.path} was changed since it was looked at\n  found   {found}\n  wanted  {artifact.digest}\n"
            "  once nothing writes to it any more, run the same command again: it takes the file as it is then"
        )

    def _doubt(self, artifact: Artifact) -> None:
        """Have a sealed folder hashed when it is next looked at, if it was not hashed yet."""
        if artifact.digest not in self._hashed:
            self.forget(artifact)
            self._hashed.add(artifact.digest)

    def _stamps_path(self, artifact: Artifact) -> Path:
        return self.root / "stamps" / f"{artifact.kind}-{artifact.digest[:SHORT]}.json"

    def _work(self, step: Step, key: str) -> Path:
        return self.root / "work" / step.name / key

    def _lease(self, key: str) -> Path:
        return self.root / "leases" / key

    def _record_path(self, step: Step, key: str) -> Path:
        return self.root / "keys" / step.name / f"{key}.json"


def _differs_from(request: Request, inputs: Inputs, records: Mapping[str, Mapping[str, Any]]) -> str:
    """In words, how the request differs from the most similar earlier one of that name."""
    earlier = [record for record in records.values() if record["name"] == request.name]
    now = request_identity(request, inputs)
    former = nearest(now, earlier, lambda record: record)
    if former is None:
        return "never built on this home"
    return difference(former, now)


def _unless_taken_over(request: Request, is_ours: Callable[[], bool]) -> Request:
    """`request`, of which nothing is sealed if the lease was lost meanwhile: another is writing in the same folder."""

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        request.work(inputs, folders)
        if not is_ours():
            raise TakenOverError(
                f"{request.name}: this machine was silent for so long that another run has gone on with its work. "
                "What that run builds is taken by the next run here."
            )

    return replace(request, work=work)


def _unseal(folder: Path) -> None:
    """Undo what a build that was killed while it sealed `folder` had done."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for base, _, names in os.walk(folder):
        for name in names:
            Path(base, name).chmod(0o644)


def write_json(path: Path, value: object) -> None:
    """`value` as JSON at `path`, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True))


def read_record(path: Path) -> dict[str, Any]:
    """A file of `keys/`.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: it is damaged; says what helps.
    """
    cure = "lets what it speaks of be built anew when it is asked for"
    return read_whole(path, RECORD_NAMES, damage="it is no record of a build", cure=cure)


def _noted_at(path: Path) -> dict[str, Any] | None:
    try:
        return read_record(path)
    except FileNotFoundError:
        return None


def remembered(book: Path) -> dict[str, Any]:
    """What a file of `stamps/` says; nothing where it is missing or damaged, for all that it saves is hashing."""
    try:
        told = json.loads(book.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _built(request: Request, known: StoreLookup, action: Literal["build", "reuse"], before: float) -> BuildResult:
    assert known.artifact is not None
    seconds = time.monotonic() - before
    return BuildResult(
        name=request.name, key=known.key, action=action, why=known.why, seconds=seconds, artifact=known.artifact
    )


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
