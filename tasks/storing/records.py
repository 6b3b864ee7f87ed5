"""What the store noted of every build: which digest a request gave, from what, by whom. The store itself writes it.

Two requests may give one digest (a filter that drops nothing), so who asks what made it says for whom.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.build import Store
from tasks.request import SHORT

NO_KINDS = ("keys", "work", "notes", "stamps", "leases", "damaged")
"""The folders of a store that hold no artifacts."""

MAKES = {
    **{"rows": "rows", "table": "filter", "shards": "fetch", "index": "screen", "hashes": "hash", "evaluation": "hash"},
    **{"init": "train", "checkpoint": "train", "scores": "evaluate", "backbones": "import"},
}
READS = {("filter", "table"): "rows"}
"""By which step an input of that kind is made (the second, for one reader), where several gave the same digest."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One file of `keys/`.

    Attributes:
        name: as people say it: `stage3/train`.
        config: as it was hashed.
        inputs: input name -> digest; None where the step had none.
        digest: the current one of the key.
        others: what the same request gave another time.
        noted: run, time, host, argv, commit, versions ...: in no key.
    """

    key: str
    name: str
    step: str
    version: int
    config: Any
    inputs: Mapping[str, str | None]
    digest: str
    others: tuple[str, ...]
    noted: Mapping[str, Any]

    @property
    def digests(self) -> tuple[str, ...]:
        """All that it gave, the current one first."""
        return self.digest, *self.others

    @property
    def group(self) -> str:
        """The data set or stage: what stands before the slash."""
        return self.name.partition("/")[0]

    @property
    def time(self) -> float:
        """When its run began, in seconds since 1970."""
        return float(self.noted["time"])

    @property
    def aids(self) -> Mapping[str, str]:
        """What spared work: name -> digest."""
        return self.noted.get("aids", {})


class Records:
    """The records of a store, read when they are first asked for, and the folders of its artifacts."""

    def __init__(self, store: Store) -> None:
        self._store, self.root = store, store.root

    @cached_property
    def all(self) -> tuple[Record, ...]:
        """Every one, the newest first."""
        steps = sorted(path.name for path in (self.root / "keys").glob("*"))
        found = (record for step in steps for record in self.of_step(step))
        return tuple(sorted(found, key=lambda record: -record.time))

    def of_step(self, step: str) -> tuple[Record, ...]:
        """Those of that step (`train`), the newest first; no others are read."""
        return tuple(_record(key, told) for key, told in self._store.records_of(step).items())

    @cached_property
    def _by_digest(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.all:
            for digest in record.digests:
                found.setdefault(digest, []).append(record)
        return found

    @cached_property
    def folders(self) -> Mapping[str, Path]:
        """The first digits of a digest -> the sealed folder."""
        kinds = [path for path in sorted(self.root.glob("*")) if path.is_dir() and path.name not in NO_KINDS]
        return {path.name: path for kind in kinds for path in sorted(kind.iterdir()) if path.is_dir()}

    def folder(self, digest: str) -> Path | None:
        """Where the artifact lies; None if it is gone."""
        return self.folders.get(digest[:SHORT])

    def of_key(self, key: str) -> Record | None:
        """The record of that key."""
        return next((record for record in self.all if record.key == key), None)

    def named(self, name: str) -> list[Record]:
        """Those of that name, the newest first."""
        return [record for record in self.all if record.name == name]

    def of_digest(self, digest: str) -> list[Record]:
        """Those that gave it, the newest first."""
        return self._by_digest.get(digest, [])

    def made(self, digest: str, reader: Record | None, role: str) -> Record | None:
        """The record of what made `digest`; None if there is none here.

        Args:
            reader: the record whose input it is.
            role: the input's name (`shards.laion`), or the name of the step.
        """
        kind, _, of = role.partition(".")
        groups = {role.partition("/")[0], of, reader.group if reader else ""}
        work = READS.get((reader.step if reader else "", kind)) or MAKES.get(kind)
        found = [record for record in self.of_digest(digest) if reader is None or record.key != reader.key]

        beside, run = (set(reader.inputs.values()), reader.noted["run"]) if reader else (set[str | None](), None)

        def fits(record: Record) -> tuple[int, ...]:
            is_before = reader is None or record.time <= reader.time
            shared = len(
                beside.intersection(filter(None, record.inputs.values()))
            )  # a model reads scores and checkpoint
            is_of_work = record.name.partition("/")[2] == work
            return (
                record.name == role,
                is_of_work,
                record.group in groups,
                shared,
                record.noted["run"] == run,
                is_before,
            )

        return max(found, key=fits, default=None)


def _record(key: str, told: Mapping[str, Any]) -> Record:
    fields = ("name", "step", "version", "config", "inputs", "digest", "noted")
    return Record(key=key, others=tuple(told["others"]), **{name: told[name] for name in fields})


def clock(seconds: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
