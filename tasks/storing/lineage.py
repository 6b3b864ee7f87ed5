"""What a version or checkpoint came from: the chain of its builds, as the store's notes and the registry's tags say."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.build import Store
from tasks.registering.registry import BACKBONES_TAG, BUNDLE_TAG, CHECKPOINT_TAG, MODEL_TAG, Version, find
from tasks.request import SHORT
from tasks.segments import SEGMENT
from tasks.storing.records import Record, Records
from tasks.tables import COUNTS_FILE
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import ConfigError

REGISTERED = "register"
TRAINED, MODEL = "checkpoint", "model"
"""The kinds of artifacts that are models."""
TAG = "tinygptv."
MADE = (
    *("backbones", "checkpoint", "evaluation", "features", "hashes", "index", "init"),
    *("pictures", "rows", "scores", "shards", "table"),
)
"""The inputs, by what stands before the dot, that only a step makes; others may be files of the user's."""

GIVEN = "a file or folder of the user's, or what another home made"
LOST = "no record of it on this home: another one made it, or its record was removed"


@dataclass(frozen=True, kw_only=True)
class Link:
    """One artifact of a chain.

    Attributes:
        step: what made it; where no record says so, who read it as what.
        folder: where it lies; None if it is gone.
        inputs: input name -> digest.
        missing: why nothing more is known, in words.
    """

    step: str
    digest: str
    record: Record | None
    folder: Path | None
    inputs: Mapping[str, str]
    missing: str | None

    @property
    def kind(self) -> str | None:
        """Of the artifact; not known of what is gone."""
        return self.folder.parent.name if self.folder else None

    @property
    def group(self) -> str:
        """The data set or stage."""
        return self.step.partition("/")[0]

    def told(self, name: str) -> Any:
        """What a JSON file of the artifact says; None if it has none."""
        path = self.folder / name if self.folder else None
        return json.loads(path.read_text()) if path and path.is_file() else None

    @property
    def counts(self) -> Any:
        """`{"rows", "kept", "dropped"}` of a data artifact."""
        return self.told(COUNTS_FILE)


def resolved(model: str, store: Store, tracking_uri: str) -> Version | Artifact:
    """What `models:/NAME@ALIAS`, `NAME/NUMBER` or the beginning of a checkpoint's or model's digest names.

    Raises:
        ConfigError: nothing; says what there is.
    """
    return of_digest(model, store) or find(tracking_uri, model)


def of_digest(model: str, store: Store) -> Artifact | None:
    """The checkpoint or model of the store whose digest begins with `model`; None where that is no digest.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if not is_digest(model):
        return None
    kinds = [kind for kind in (TRAINED, MODEL) if any((store.root / kind).glob(f"{model[:SHORT]}*"))]
    if len(kinds) > 1:
        raise ConfigError(f"{model}: a {TRAINED} and a {MODEL} of that name in {store.root}; give more digits")
    return store.sealed.find(kinds[0] if kinds else TRAINED, model)


def is_digest(text: str) -> bool:
    """Whether that may be the beginning of a digest."""
    return re.fullmatch("[0-9a-f]{1,64}", text) is not None


def roots_of(model: Version | Artifact) -> dict[str, str]:
    """Step -> digest of what is known before any record is read."""
    if isinstance(model, Artifact):
        return {REGISTERED if model.kind == MODEL else TRAINED: model.digest}
    ours = {key: value for key, value in model.tags.items() if key.startswith(TAG)}
    named = {REGISTERED: ours[MODEL_TAG]} if MODEL_TAG in ours else {}
    told = (MODEL_TAG, CHECKPOINT_TAG, BACKBONES_TAG, BUNDLE_TAG)
    return named | {key.removeprefix(TAG): value for key, value in ours.items() if key not in told and "/" in key}


def chain(records: Records, roots: Mapping[str, str]) -> tuple[Link, ...]:
    """Everything that the roots came from, each after what was made of it."""
    found: dict[tuple[str, str], Link] = {}
    names = {digest: step for step, digest in roots.items()}

    def visit(digest: str, reader: Record | None, role: str) -> None:
        record = records.made(digest, reader, role)
        place = digest, record.key if record else ""
        if place in found:
            return
        link = _link(digest, reader, names.get(digest, role), record, records.folder(digest))
        for name, source in link.inputs.items():
            visit(source, record, name)
        found[place] = link  # after what it came from

    for step, digest in roots.items():
        if all(digest != known for known, _ in found):  # what a record of the first led to is known better
            visit(digest, None, step)
    return tuple(sorted(reversed(found.values()), key=lambda link: link.step != REGISTERED))


def _link(digest: str, reader: Record | None, role: str, record: Record | None, folder: Path | None) -> Link:
    if record:
        made = {name: source for name, source in record.inputs.items() if source}
        return Link(step=record.name, digest=digest, record=record, folder=folder, inputs=made, missing=None)
    is_lost = reader is None or "/" in role or role.partition(".")[0] in MADE
    step = role if reader is None or "/" in role else f"{reader.name}, its {role}"
    return Link(step=step, digest=digest, record=None, folder=folder, inputs={}, missing=LOST if is_lost else GIVEN)


def segments_of(records: Records, links: tuple[Link, ...]) -> tuple[Record, ...]:
    """The segments that the shards among `links` were joined from: they are in no key, and share their bytes."""
    tables = {link.inputs.get("table") for link in links if link.kind == SEGMENT.kind}
    return tuple(r for r in records.all if r.step == SEGMENT.name and r.noted.get("table") in tables)
