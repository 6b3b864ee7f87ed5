"""The store's artifacts as things to look after: who needs each, whether it is whole, and which may go.

A registered version, the newest runs and what was brought say what is needed; the clock only how long to wait for a run
that ended without a report to go on.
"""

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.build import Store
from tasks.lease import Holder, held
from tasks.registering.registry import MODEL_TAG, Version
from tasks.request import SHORT
from tasks.sealed import MANIFEST
from tasks.storing.lineage import REGISTERED, Link, chain, roots_of, segments_of
from tasks.storing.records import Record, Records
from tinygptv_core.artifact import Artifact, sha256_of_file
from tinygptv_core.plain import ConfigError

REPORT = "report.json"
DAY_SECONDS = 86400
IMPORTED = "import"
"""What is noted as the run of weights that were brought: `tinygptv weights import`."""

NO_DATA = ("backbones", "checkpoint", "scores", "model")
"""The kinds that are no data: what a version is, beside what it was trained on."""


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """One sealed folder.

    Attributes:
        digest: whole where a manifest or a record says it, else its beginning.
        bytes: of its files; two artifacts may share them (a fetch and its segments).
        time: when it was sealed here, in seconds since 1970.
        needed: by what, in words: a version, a run; nothing: it may go.
    """

    kind: str
    digest: str
    path: Path
    records: tuple[Record, ...]
    bytes: int
    time: float
    needed: tuple[str, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the steps that gave it."""
        return tuple(dict.fromkeys(record.name for record in self.records))


@dataclass(frozen=True, kw_only=True)
class Run:
    """The report of a run, as far as its artifacts go."""

    name: str
    preset: str
    is_whole: bool
    artifacts: frozenset[str]
    time: float


class ArtifactInventory:
    """A home's artifacts and who needs them.

    Args:
        versions: every registered version.
        keep_data: what versions were trained on is needed, too.
        days: for so long what a run left that has no report waits to be gone on with.
        unregistered: models that none of the versions is are not needed: their versions were deleted. Without it
            they are, for another registry may hold them.
    """

    def __init__(
        self, home: Path, versions: Sequence[Version], *, keep_data: bool, days: float, unregistered: bool
    ) -> None:
        self.home, self.store, self.days, self.unregistered = home, Store(home / "store"), days, unregistered
        self.records, self.versions, self.keep_data = Records(self.store), versions, keep_data

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The runs that have a report, the newest first."""
        found = [_run(path) for path in (self.home / "runs").glob(f"*/{REPORT}")]
        return tuple(sorted(found, key=lambda run: (-run.time, run.name)))

    @cached_property
    def holders(self) -> Mapping[str, Holder]:
        """Key -> who is building it now."""
        folder = self.store.root / "leases"
        found = {path.name: held(path) for path in folder.glob("*") if "." not in path.name}
        return {key: holder for key, holder in found.items() if holder is not None}

    @cached_property
    def artifacts(self) -> tuple[StoredArtifact, ...]:
        """Every sealed folder, by kind and name."""
        return tuple(self._kept(path) for path in self.records.folders.values())

    def _kept(self, path: Path) -> StoredArtifact:
        manifest = path / MANIFEST
        read = sha256_of_file(manifest) if manifest.is_file() else path.name
        digest = self._digests.get(path.name, read)
        records = tuple(self.records.of_digest(digest))
        return StoredArtifact(
            kind=path.parent.name,
            digest=digest,
            path=path,
            records=records,
            bytes=sum(file.stat().st_size for file in _files(path)),
            time=(manifest if manifest.is_file() else path).stat().st_mtime,
            needed=tuple(self._needed.get(path.name, ())),
        )

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {digest[:SHORT]: digest for record in self.records.all for digest in record.digests}

    @cached_property
    def _needed(self) -> dict[str, list[str]]:
        """The name of a folder -> who needs it."""
        found: dict[str, list[str]] = {}
        for name, digests in self._needs():
            for digest in digests:
                needs = found.setdefault(digest[:SHORT], [])
                needs += [] if name in needs else [name]
        return found

    def _needs(self) -> Iterator[tuple[str, Iterable[str]]]:
        for version in self.versions:
            yield f"version {version.name}/{version.version}", self._of_model(roots_of(version))
        known = {version.tags.get(MODEL_TAG) for version in self.versions}
        for record in self.records.all:
            if record.step == REGISTERED and record.digest not in known and not self.unregistered:
                yield "a model that this registry does not hold", self._of_model({REGISTERED: record.digest})
        for run in _newest(self.runs):
            yield f"run {run.name}, the newest of {run.preset}", self._with_parts(run.artifacts)
        for name, digests in self._unreported():
            told = "weights that were imported" if name == IMPORTED else f"run {name}, which has no report yet"
            yield told, self._with_parts(frozenset(digests))

    def _unreported(self) -> Iterator[tuple[str, Iterable[str]]]:
        """What runs without a report have built, the killed and those that go on, and what was imported."""
        reported, since = {run.name for run in self.runs}, time.time() - self.days * DAY_SECONDS
        found: dict[str, list[str]] = {}
        for record in self.records.all:
            name = record.noted["run"]
            if name == IMPORTED or (name not in reported and record.time >= since):
                found.setdefault(name, []).extend(record.digests)
        yield from found.items()

    def _of_model(self, roots: Mapping[str, str]) -> Iterator[str]:
        links = chain(self.records, roots)
        for link in links:
            if self.keep_data or link.kind in NO_DATA:
                yield link.digest
                yield from (link.record.aids.values() if link.record and self.keep_data else ())
        yield from self._parts(links) if self.keep_data else ()

    def _parts(self, links: tuple[Link, ...]) -> Iterator[str]:
        return (record.digest for record in segments_of(self.records, links))

    def _with_parts(self, digests: frozenset[str]) -> Iterator[str]:
        """The artifacts of a run, what they were made of, and what spared their work."""
        yield from digests
        links = chain(self.records, {str(place): digest for place, digest in enumerate(sorted(digests))})
        yield from (link.digest for link in links)
        yield from (digest for link in links if link.record for digest in link.record.aids.values())
        yield from self._parts(links)

    def damage(self, tell: Callable[[int, int, StoredArtifact], None]) -> Iterator[tuple[StoredArtifact, str]]:
        """Every folder that is not what was sealed, all of it hashed, and what is wrong with it.

        Args:
            tell: told (done, total, what comes next) before each.
        """
        for number, item in enumerate(self.artifacts):
            tell(number, len(self.artifacts), item)
            told = None if item.digest.startswith(item.path.name) else "its manifest is not the one that was sealed"
            if told := told or self.store.sealed.verify(Artifact(kind=item.kind, digest=item.digest, path=item.path)):
                yield item, told

    def missing(self) -> list[Record]:
        """The records whose artifact is gone, the newest first: a run that needs it builds it anew."""
        return [r for r in self.records.all if self.records.folder(r.digest) is None]


def rebuilt_by(item: StoredArtifact) -> str:
    """The command that made it, and makes it again."""
    if not item.records:
        return "no record says what made it; tinygptv store clean removes it"
    return shlex.join(["tinygptv", *item.records[0].noted.get("argv", ["run"])])


def _run(path: Path) -> Run:
    """The run whose report this is.

    Raises:
        ConfigError: it is damaged; says what helps.
    """
    try:
        told = json.loads(path.read_bytes())
        return Run(
            name=told["run"],
            preset=told["preset"],
            is_whole=told["model"] is not None,
            artifacts=frozenset(step["artifact"] for step in told["steps"]),
            time=path.stat().st_mtime,
        )
    except (ValueError, KeyError, TypeError):
        helps = f"rm {shlex.quote(str(path))}  has that run count as one without a report"
        raise ConfigError(f"{path} is damaged: it is no report of a run.\n  {helps}") from None


def _newest(runs: Sequence[Run]) -> Iterator[Run]:
    """Of every preset the newest run, and the newest that came to its end (of `runs`, the newest first)."""
    seen: set[tuple[str, bool]] = set()
    for run in runs:
        places = {(run.preset, False), (run.preset, run.is_whole)}
        if not places <= seen:
            seen |= places
            yield run


def _files(folder: Path) -> Iterator[Path]:
    return (Path(base, name) for base, _, names in os.walk(folder) for name in names)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a cleaning would remove.

    Attributes:
        folders: artifacts that nothing needs.
        work: of builds that were left, and not touched for `ArtifactInventory.days`.
        graves: damaged folders that were put aside, and what a cleaning that was killed left.
        notes: of keys whose artifact goes or is gone.
        bytes: what the disk gets back: what artifacts share counts when the last of them goes.
    """

    folders: tuple[StoredArtifact, ...]
    work: tuple[Path, ...]
    graves: tuple[Path, ...]
    notes: tuple[Path, ...]
    bytes: int


def sweep(inventory: ArtifactInventory) -> Sweep:
    """What may go: never what a version or the newest runs need, nor what is being built."""
    folders = tuple(item for item in inventory.artifacts if not item.needed)
    going = {item.path.name for item in folders}
    gone = [r for r in inventory.records.all if r.digest[:SHORT] in going or inventory.records.folder(r.digest) is None]
    notes = [inventory.store.notes(record.key) for record in gone if record.key not in inventory.holders]
    root = inventory.store.root
    work = [
        path for path in root.glob("work/*/*") if path.name not in inventory.holders and _is_old(path, inventory.days)
    ]
    found = Sweep(
        folders=folders,
        work=tuple(sorted(work)),
        graves=tuple(sorted(root.glob("damaged/*"))),
        notes=tuple(path for path in notes if path.is_dir()),
        bytes=0,
    )
    paths = [item.path for item in folders]
    return replace(found, bytes=_freed([*paths, *found.work, *found.graves, *found.notes]))


def _is_old(folder: Path, days: float) -> bool:
    newest = max((path.stat().st_mtime for path in (folder, *_files(folder))), default=0.0)
    return time.time() - newest >= days * DAY_SECONDS


def _freed(folders: Sequence[Path]) -> int:
    """The bytes of those files all of whose names lie in `folders`."""
    links: dict[tuple[int, int], list[int]] = {}
    for folder in folders:
        for path in _files(folder):
            status = path.stat()
            links.setdefault((status.st_dev, status.st_ino), [status.st_size, status.st_nlink])[1] -= 1
    return sum(size for size, left in links.values() if left <= 0)


def clean(inventory: ArtifactInventory, found: Sweep) -> None:
    """Remove what was found. A folder is put aside before it is removed, so that a kill leaves none in halves."""
    grave = inventory.store.root / "damaged"
    grave.mkdir(exist_ok=True)
    for item in found.folders:
        aside = grave / f"removed-{item.kind}-{item.path.name}-{time.time_ns()}"
        item.path.rename(aside)
        inventory.store.sealed.forget(Artifact(kind=item.kind, digest=item.digest, path=item.path))
        shutil.rmtree(aside)
    for path in (*found.work, *found.graves, *found.notes):
        shutil.rmtree(path)


def for_machines(item: StoredArtifact) -> dict[str, Any]:
    """One artifact, for JSON."""
    told = {"kind": item.kind, "digest": item.digest, "steps": list(item.steps), "bytes": item.bytes, "time": item.time}
    return {**told, "path": str(item.path), "needed": list(item.needed)}
