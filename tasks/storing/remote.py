"""Artifacts on another file system: `store push` and `store pull`, of any kind of URL that fsspec reads and writes.

There they lie as in a store here: KIND/DIGEST/..., the manifest uploaded last, and keys/STEP/KEY.json after everything
that a record speaks of. So what has a manifest there is whole, and nothing relies on renaming or on locks. Of what is
noted beside a build, notes/KEY/ has what a report shows of a training.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from tasks.build import Store
from tasks.lease import lease
from tasks.request import SHORT
from tasks.sealed import MANIFEST, DamagedError
from tasks.storing.lineage import chain, segments_of
from tasks.storing.records import NO_KINDS, Record, Records
from tasks.train import TRAIN
from tasks.whole_files import write_json
from tinygptv_core.artifact import Artifact, Member, sha256_of_file
from tinygptv_core.drafts import write_whole
from tinygptv_core.file_systems import file_system_of
from tinygptv_core.plain import ConfigError, from_plain, sha256_of

AT_ONCE = 64
"""Files that are asked for at a time."""

KIND = re.compile("[a-z]+")
RECORD = re.compile(r"[a-z]+(-\w+)*/[0-9a-f]{64}\.json")
"""What a store's folders are called; another name there is not followed."""
TOLD = ("summary.json", "metrics.jsonl")
"""Of the notes of a training: what a report shows."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What a push or pull came to.

    Attributes:
        artifacts: how many are there now, and `moved` how many of them were not before.
        bytes: of the files that were moved.
        lacking: digests that records speak of and neither side has: what is built from them is there.
    """

    artifacts: int
    moved: int
    bytes: int
    records: int
    lacking: tuple[str, ...]


class Remote:
    """A store at a URL.

    Raises (every method does):
        ConfigError: nothing here reads such URLs, or it cannot be reached, with its own words.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, root = file_system_of(url)
        self._root = root.rstrip("/")
        self._files.invalidate_cache()  # what others wrote since is seen

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (ConfigError, DamagedError):
            raise
        except Exception as error:  # each of fsspec's ways has its own errors
            raise ConfigError(f"{self.url}: {type(error).__name__}: {error}") from error

    def sizes(self, folder: str) -> dict[str, int]:
        """Path below `folder` -> bytes, of every file there; none where there is no such folder."""
        with self._told():
            found = self._files.find(self._at(folder), detail=True)
        start = len(self._at(folder).lstrip("/")) + 1
        return {name.lstrip("/")[start:]: about["size"] for name, about in found.items()}

    def sealed(self) -> dict[str, str]:
        """The first digits of a digest -> its kind, of every artifact that is whole there."""
        with self._told():
            found = self._files.glob(self._at(f"*/*/{MANIFEST}"))
        places = (name.split("/")[-3:-1] for name in found)
        return {short: kind for kind, short in places if KIND.fullmatch(kind) and kind not in NO_KINDS}

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None where there is none."""
        with self._told():
            try:
                return self._files.cat_file(self._at(path))
            except FileNotFoundError:
                return None

    def upload(self, folder: Path, to: str, names: Sequence[str]) -> None:
        """Write files of a folder, each whole or not at all on a store of objects."""
        with self._told():
            for some in _some(names):
                for parent in {str(PurePosixPath(self._at(to), name).parent) for name in some}:
                    self._files.makedirs(parent, exist_ok=True)
                self._files.put([str(folder / name) for name in some], [self._at(f"{to}/{name}") for name in some])

    def download(self, of: str, folder: Path, names: Sequence[str]) -> None:
        """Read files into a folder."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            for some in _some(names):
                self._files.get([self._at(f"{of}/{name}") for name in some], [str(folder / name) for name in some])


def _some(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE))


def push(store: Store, url: str, wanted: Sequence[str], tell: Tell) -> Moved:
    """Bring artifacts, all that they are made from, and the records of it to `url`.

    What is there is not sent again, so a push that was interrupted goes on where it was. Of the builds of one key the
    record that is pushed last stands there, and with another digest the notes of that build.

    Args:
        wanted: the beginnings of digests; none of them: everything that records speak of.
        tell: told of each artifact that is sent.

    Raises:
        ConfigError: there is no such artifact, one is damaged, or the URL cannot be written to.
    """
    remote, records = Remote(url), Records(store)
    digests, of = _closure(records, wanted, str(store.root))
    moved, num_bytes, lacking = 0, 0, list[str]()
    for digest in digests:
        folder = records.folder(digest)
        if folder is None:
            lacking.append(digest)
            continue
        artifact = Artifact(kind=folder.parent.name, digest=digest, path=folder)
        sent = _send(store, remote, artifact, tell)
        moved, num_bytes = moved + (sent is not None), num_bytes + (sent or 0)
    remote.upload(store.root / "notes", "notes", _new_notes(store, remote, of))
    # Last: what a record speaks of is there.
    remote.upload(store.root / "keys", "keys", [f"{record.step}/{record.key}.json" for record in of])
    there = len(digests) - len(lacking)
    return Moved(artifacts=there, moved=moved, bytes=num_bytes, records=len(of), lacking=tuple(lacking))


def _send(store: Store, remote: Remote, artifact: Artifact, tell: Tell) -> int | None:
    """The bytes that were sent; None if it is there."""
    place = _place(artifact.kind, artifact.digest)
    if _sha256(remote.read(f"{place}/{MANIFEST}")) == artifact.digest:
        return None
    if damage := store.sealed.verify(artifact):
        raise ConfigError(f"{artifact.path} is damaged: {damage}; it is not sent.\n  tinygptv store verify  says more")
    members, there = _members((artifact.path / MANIFEST).read_bytes()), remote.sizes(place)
    wanted = [member for member in members if there.get(member.path) != member.bytes]
    num_bytes = sum(member.bytes for member in wanted)
    tell(f"{artifact.kind} {artifact.digest[:SHORT]}: {len(wanted)} of {len(members)} files, {num_bytes:,} bytes")
    remote.upload(artifact.path, place, [member.path for member in wanted])
    remote.upload(artifact.path, place, [MANIFEST])
    return num_bytes


def _new_notes(store: Store, remote: Remote, records: Sequence[Record]) -> list[str]:
    """The notes here that are to go there: those of a record that gives another digest there, or that are missing."""
    there = remote.sizes("notes")
    told = [
        record for record in records if record.step == TRAIN.name and _digest_there(remote, record) == record.digest
    ]
    known = {name for name in _notes(told) if name in there}
    return [name for name in _notes(records) if name not in known and (store.root / "notes" / name).is_file()]


def _digest_there(remote: Remote, record: Record) -> str | None:
    """The current digest of the record of that key there; None where there is none, or it is damaged."""
    data = remote.read(f"keys/{record.step}/{record.key}.json")
    try:
        return json.loads(data)["digest"] if data is not None else None
    except (ValueError, KeyError, TypeError):
        return None


def pull(store: Store, url: str, wanted: Sequence[str], tell: Tell) -> Moved:
    """Bring artifacts that were pushed to `url`, all that they are made from, and the records of it here.

    Every byte is hashed before an artifact is sealed. What is here stays, and of a record that is here its own stands.

    Args:
        wanted, tell: as of `push`.

    Raises:
        ConfigError: there is no store or no such artifact, or the URL cannot be read.
        DamagedError: what is there is not what was pushed; what is whole was kept and is not asked for again.
    """
    remote = Remote(url)
    with tempfile.TemporaryDirectory() as folder:
        seen, names = Store(Path(folder)), sorted(filter(RECORD.fullmatch, remote.sizes("keys")))
        if not names:
            raise ConfigError(
                f"there is no store at {url}: no record lies in its keys/.\n"
                "  name the URL that tinygptv store push was given"
            )
        remote.download("keys", seen.root / "keys", names)
        _check_keys(seen.root / "keys", url)
        records = Records(seen)
        digests, of = _closure(records, wanted, url)
        sealed = remote.sealed()
        kinds = {digest: sealed[digest[:SHORT]] for digest in digests if digest[:SHORT] in sealed}
        fetched = [_fetched(store, remote, kind, digest, tell) for digest, kind in kinds.items()]
        there = remote.sizes("notes")
        remote.download("notes", seen.root / "notes", [name for name in _notes(of) if name in there])
        for record in reversed(of):  # what it is made from comes first
            _keep(store, seen, record)
    new = [num_bytes for num_bytes in fetched if num_bytes is not None]
    lacking = tuple(digest for digest in digests if digest not in kinds)
    return Moved(artifacts=len(kinds), moved=len(new), bytes=sum(new), records=len(of), lacking=lacking)


def _fetched(store: Store, remote: Remote, kind: str, digest: str, tell: Tell) -> int | None:
    with lease(store.root / "leases" / digest, tell):  # another pull waits, and a cleaning keeps off
        return _fetch(store, remote, kind, digest, tell)


def _fetch(store: Store, remote: Remote, kind: str, digest: str, tell: Tell) -> int | None:
    """The bytes that were fetched; None if the artifact is here."""
    artifact = store.sealed.at(kind, digest)
    if artifact.path.exists() and store.sealed.verify(artifact) is None:
        return None
    place, folder = _place(kind, digest), store.root / "work" / "pull" / digest
    manifest = remote.read(f"{place}/{MANIFEST}")
    if manifest is None or _sha256(manifest) != digest:
        raise DamagedError(f"{remote.url}/{place}: its manifest is not that of {digest}; push it again")
    members = _members(manifest)
    if outside := [member.path for member in members if not _is_below(member.path)]:
        raise DamagedError(f"{remote.url}/{place}: a file of it, {outside[0]!r}, would lie elsewhere")
    wanted = [member for member in members if not _is_here(folder, member)]
    num_bytes = sum(member.bytes for member in wanted)
    tell(f"{kind} {digest[:SHORT]}: {len(wanted)} of {len(members)} files, {num_bytes:,} bytes")
    remote.download(place, folder, [member.path for member in wanted])
    for member in wanted:
        if not _is_here(folder, member):
            (folder / member.path).unlink(missing_ok=True)
            raise DamagedError(f"{remote.url}/{place}/{member.path} is not what was pushed; push it again")
    store.sealed.seal(folder, kind)
    return num_bytes


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts


def _is_here(folder: Path, member: Member) -> bool:
    path = folder / member.path
    return path.is_file() and path.stat().st_size == member.bytes and sha256_of_file(path) == member.sha256


def _keep(store: Store, seen: Store, record: Record) -> None:
    """The record of another store, and what is noted beside, unless there is one of that key here."""
    name = f"{record.step}/{record.key}.json"
    path = store.root / "keys" / name
    for note in _notes([record]):
        here, given = store.root / "notes" / note, seen.root / "notes" / note
        if given.exists() and not here.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            write_whole(here, given.read_text())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, json.loads((seen.root / "keys" / name).read_text()))


def _notes(records: Iterable[Record]) -> list[str]:
    return [f"{record.key}/{name}" for record in records if record.step == TRAIN.name for name in TOLD]


def _check_keys(folder: Path, url: str) -> None:
    """Refuse a record that is not the request whose key is its name."""
    for path in folder.glob("*/*.json"):
        told = json.loads(path.read_text())
        if sha256_of({name: told[name] for name in ("step", "version", "config", "inputs")}) != path.stem:
            raise DamagedError(f"{url}/keys/{path.parent.name}/{path.name} does not have the key that its name says")


def in_words(moved: Moved, url: str) -> str:
    """For a person."""
    told = f"{moved.artifacts} artifacts of {url}: {moved.moved} moved ({moved.bytes:,} bytes), the others were there"
    lost = f"\n{len(moved.lacking)} that records speak of are not there; a run that needs one builds it"
    return f"{told}; {moved.records} records{lost if moved.lacking else ''}"


def _closure(records: Records, wanted: Sequence[str], where: str) -> tuple[list[str], list[Record]]:
    """The digests that were asked for and all that they came from; and the records of it, what was made last first."""
    known = {digest for record in records.all for digest in record.digests}
    asked = sorted(_one(known, beginning, where) for beginning in wanted) if wanted else sorted(known)
    links = chain(records, {str(number): digest for number, digest in enumerate(asked)})
    parts = segments_of(records, links)
    of = {record.key: record for record in (*(link.record for link in links), *parts) if record}
    aids = [digest for record in of.values() for digest in record.aids.values()]
    digests = [*(link.digest for link in links), *(part.digest for part in parts), *aids]
    return list(dict.fromkeys(digest for digest in digests if digest in known)), list(of.values())


def _one(known: Iterable[str], beginning: str, where: str) -> str:
    found = [digest for digest in known if beginning and digest.startswith(beginning)]
    if len(found) != 1:
        raise ConfigError(
            f"{beginning}: {len(found)} artifacts of that name in {where}; tinygptv store list shows them"
        )
    return found[0]


def _place(kind: str, digest: str) -> str:
    return f"{kind}/{digest[:SHORT]}"


def _sha256(data: bytes | None) -> str | None:
    return None if data is None else sha256(data).hexdigest()


def _members(manifest: bytes) -> tuple[Member, ...]:
    return from_plain(tuple[Member, ...], json.loads(manifest))
