"""The store: a request's key gives a digest, a digest gives a folder.

The only place that decides whether something is built already. Two names for two questions: the
*key* says what was asked for, the *digest* says what it is (docs/adr/0001-identity-by-content.md).

    keys/<step>/<key>.json        which digest that request gave, and what is noted about it
    <kind>/<digest[:12]>/         the sealed folder (`sealed.py`)
    work/<step>/<key>/            a build in progress, or what a killed one left
    notes/<key>/                  what is kept and hashed nowhere
    leases/<key>                  who is building it now
    in-use                        locked by whoever reads or builds, together, and by who cleans, alone
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.lease import held, in_use, lease
from tasks.request import Inputs, Request, Step, StepFolders, difference, digests, nearest, request_identity
from tasks.sealed import SealedFolders, unseal
from tasks.whole_files import read_whole, write_json
from tinygptv_core.artifact import Artifact
from tinygptv_core.drafts import write_whole
from tinygptv_core.plain import sha256_of

FORCED = "asked for with --from"
MARK = "forced"
"""In the work of a forced build: a file with the digest that it gave, empty until it is sealed."""
RECORD_NAMES = frozenset({"name", "step", "version", "config", "inputs", "digest", "others", "noted"})
"""What a file of `keys/` has."""
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


class TakenOverError(RuntimeError):
    """Another machine has gone on with a build whose machine was silent for long; it seals what there is to seal."""


class Store:
    """Artifacts below one folder, shared by every run on that home."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sealed = SealedFolders(root)

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
        artifact = self.sealed.at(request.step.kind, record["digest"])
        damage = self.sealed.damage(artifact)
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
        self.sealed.doubt(known.artifact)
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
            self._tidy(request.step, first)
            return _built(request, first, "reuse", before)
        with self.in_use(waiting), lease(self._lease(first.key), waiting) as is_ours:
            now = self.lookup(request, inputs)
            if now.artifact and not force:
                return _built(request, now, "reuse", before)
            for artifact in (*inputs.values(), *aids.values()):
                if artifact is not None:
                    self.sealed.require_whole(artifact)
            artifact = self._make(_unless_taken_over(request, is_ours), inputs, aids, now, noted, force)
        why = FORCED if force else first.why
        return _built(request, StoreLookup(key=first.key, artifact=artifact, why=why), "build", before)

    def _make(
        self, request: Request, inputs: Inputs, aids: Inputs, known: StoreLookup, noted: Mapping[str, Any], force: bool
    ) -> Artifact:
        before = time.monotonic()
        work, own = self._work(request.step, known.key), self.notes(known.key)
        if force and not _goes_on(work, known.artifact):
            _close(work, own)
        folders = _begun(work, own, force)
        read = {name: artifact for name, artifact in (*inputs.items(), *aids.items()) if artifact is not None}
        request.work(read, folders)
        artifact = self.sealed.seal(folders.out, request.step.kind)
        aided = {"aids": digests(aids)} if aids else {}
        noted = {**noted, **aided, "seconds": time.monotonic() - before}
        if folders.notes != own:
            write_whole(work / MARK, artifact.digest)
        artifact = self._note(request, inputs, known.key, artifact, noted, force)
        _close(work, own)
        return artifact

    def _tidy(self, step: Step, known: StoreLookup) -> None:
        """Close the work of a build that was killed after it was noted; a forced one that was not goes on with its."""
        work, path = self._work(step, known.key), self._lease(known.key)
        if not work.exists() or _goes_on(work, known.artifact) or held(path) is not None:
            return
        with lease(path, lambda text: None):
            if not _goes_on(work, known.artifact):  # nobody has begun it anew meanwhile
                _close(work, self.notes(known.key))

    def _note(
        self, request: Request, inputs: Inputs, key: str, artifact: Artifact, noted: Mapping[str, Any], force: bool
    ) -> Artifact:
        """Write down which digest the key gave. The first one stands, unless it is forced or damaged."""
        path = self._record_path(request.step, key)
        old = _noted_at(path)
        found = [artifact.digest]
        if old:
            first = self.sealed.at(request.step.kind, old["digest"])
            keep_first = not force and self.sealed.damage(first) is None
            artifact = first if keep_first else artifact
            found = list(dict.fromkeys([artifact.digest, *found, old["digest"], *old["others"]]))
        told = {"digest": found[0], "others": found[1:], "noted": dict(noted)}
        record = {"name": request.name, **request_identity(request, inputs), **told}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return artifact

    def _work(self, step: Step, key: str) -> Path:
        return self.root / "work" / step.name / key

    def _lease(self, key: str) -> Path:
        return self.root / "leases" / key

    def _record_path(self, step: Step, key: str) -> Path:
        return self.root / "keys" / step.name / f"{key}.json"


def _begun(work: Path, own: Path, force: bool) -> StepFolders:
    """What a step writes to. While a forced build is at work what stands keeps its `own` notes."""
    is_beside = force or _given(work) is not None
    if is_beside:
        work.mkdir(parents=True, exist_ok=True)
        (work / MARK).write_text("")
    notes = work / "notes" if is_beside else own
    folders = StepFolders(out=work / "out", scratch=work / "scratch", notes=notes, forced=force)
    for folder in (folders.out, folders.scratch, folders.notes):
        folder.mkdir(parents=True, exist_ok=True)
    unseal(folders.out)
    return folders


def _given(work: Path) -> str | None:
    """The digest that a forced build there gave, empty before it is sealed; None where none was begun."""
    try:
        return (work / MARK).read_text()
    except FileNotFoundError:
        return None


def _goes_on(work: Path, known: Artifact | None) -> bool:
    """Whether a forced build was killed there before what it gave was noted."""
    given = _given(work)
    return given is not None and (known is None or given != known.digest)


def _close(work: Path, own: Path) -> None:
    """Let the notes of a forced build that is done take the place of `own`, and remove the work."""
    if _given(work) and (work / "notes").exists():
        shutil.rmtree(own, ignore_errors=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        (work / "notes").rename(own)
    shutil.rmtree(work, ignore_errors=True)


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


def _built(request: Request, known: StoreLookup, action: Literal["build", "reuse"], before: float) -> BuildResult:
    assert known.artifact is not None
    seconds = time.monotonic() - before
    return BuildResult(
        name=request.name, key=known.key, action=action, why=known.why, seconds=seconds, artifact=known.artifact
    )
