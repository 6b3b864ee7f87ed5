"""The scores of a checkpoint on what this home has, as `tinygptv eval` computes and tells them."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.choosing.choice import DEFAULT_PRESET
from flows.evaluate import evaluate_step
from flows.home import home_option
from flows.inputs import data_inputs
from flows.provenance import noted
from flows.terminal import say
from tasks.ask import origin_of
from tasks.build import BuildResult, Store
from tasks.quantities import interval, percent
from tasks.registering.registry import CHECKPOINT_TAG, Version
from tasks.request import Inputs
from tasks.sealed import MANIFEST
from tasks.storing.lineage import resolved
from tasks.storing.records import Records
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact, sha256_of_file
from tinygptv_core.compute import Compute, Progress
from tinygptv_core.plain import ConfigError, from_plain
from tinygptv_core.presets import PRESETS
from tinygptv_core.stage import Stage


@dataclass(frozen=True, kw_only=True)
class StandaloneEnvironment:
    """Where an evaluation computes, and who is told how far it is."""

    compute: Compute
    progress: Callable[[str], Progress]


def checkpoint_named(model: str, store: Store, uri: str) -> Artifact:
    """The checkpoint in the store that a reference to the registry, a folder or the beginning of a digest names.

    Raises:
        ConfigError: there is none, or this home's store does not have it.
    """
    folder = Path(model)
    if not folder.is_dir():
        found = resolved(model, store, uri)
        if isinstance(found, Version):
            return store.sealed.find("checkpoint", _checkpoint_of(found))
        folder = found.path
    if (folder / "model.json").is_file():
        return store.sealed.find("checkpoint", json.loads((folder / "model.json").read_text())["checkpoint_digest"])
    if not (folder / MANIFEST).is_file():
        raise ConfigError(
            f"{folder} is no folder of a store: it has no {MANIFEST}.\n"
            "  to bring a model from elsewhere  tinygptv weights import"
        )
    return store.sealed.find("checkpoint", sha256_of_file(folder / MANIFEST))


def _checkpoint_of(version: Version) -> str:
    if CHECKPOINT_TAG not in version.tags:
        raise ConfigError(f"{version.name}/{version.version} does not say of which checkpoint it was made")
    return version.tags[CHECKPOINT_TAG]


def score(checkpoint: Artifact, names: Sequence[str], store: Store, where: StandaloneEnvironment) -> BuildResult:
    """The scores of a checkpoint of the store: found there, or computed now and kept.

    Args:
        names: evaluations; none for all whose data are in the store.

    Raises:
        ConfigError: no such evaluation, its data are not there, or nothing here says how the checkpoint was made.
    """
    origin, records = origin_of(checkpoint.path), Records(store)
    chosen = tuple(dict.fromkeys(names)) or _possible(records)
    data: dict[str, Artifact] = {}
    for name in chosen:
        dataset = evals.load(name).dataset
        found = data_of(dataset, records)
        if found is None:
            raise ConfigError(
                f"the data of {name} are not in {store.root}: there is no {dataset}/screen, or what it read is gone.\n"
                f"  to build them  {_to_build(dataset, store.root.parent)}"
            )
        data |= found
    told = from_plain(Stage, {**origin.stage, "evals": list(chosen)}, "stage")
    backbones = store.sealed.find("backbones", origin.backbones)
    request = evaluate_step(told, told.name, {}, where)
    inputs: Inputs = {"backbones": backbones, "checkpoint": checkpoint, **data}
    return store.build(request, inputs, {}, noted=noted("eval", None), force=False, waiting=say)


def _possible(records: Records) -> tuple[str, ...]:
    """The evaluations whose data are in the store.

    Raises:
        ConfigError: there are none; says of each which data set it asks about, and the command that builds that.
    """
    asked = {name: evals.load(name).dataset for name in evals.names()}
    found = tuple(name for name, dataset in asked.items() if data_of(dataset, records))
    if not found:
        asking = {one: [name for name in asked if asked[name] == one] for one in asked.values()}
        lines = [
            f"{_to_build(dataset, records.root.parent)}    for {', '.join(names)}" for dataset, names in asking.items()
        ]
        raise ConfigError("\n  ".join([f"{records.root} holds the data of no evaluation. To build them:", *lines]))
    return found


def _to_build(dataset: str, home: Path) -> str:
    """The command that builds a data set on `home`, with the first of the presets that read it."""
    preset = next((name for name, one in PRESETS.items() if dataset in one.data), "FILE.py:NAME")
    chosen = [] if preset == DEFAULT_PRESET else ["--preset", preset]
    return shlex.join(["tinygptv", "data", dataset, *chosen, *home_option(home)])


def data_of(dataset: str, records: Records) -> dict[str, Artifact] | None:
    """What reading a data set takes, as its newest index in the store has it; None where there is none."""
    for screened in records.named(f"{dataset}/screen"):
        fetched = records.made(screened.inputs["shards"] or "", screened, "shards")
        told = fetched.inputs if fetched else {}
        digests = {f"index.{dataset}": screened.digest, f"shards.{dataset}": screened.inputs["shards"]}
        digests |= {role: told.get(role) for role in data_inputs((dataset,)) if role not in digests}
        found = {role: _there(digest, records) for role, digest in digests.items()}
        if all(found.values()):
            return {role: artifact for role, artifact in found.items() if artifact}
    return None


def _there(digest: str | None, records: Records) -> Artifact | None:
    folder = records.folder(digest) if digest else None
    return Artifact(kind=folder.parent.name, digest=digest, path=folder) if digest and folder else None


def lines_of(scores: Mapping[str, Any]) -> list[str]:
    """A table of scores, for people."""
    rows: list[tuple[str, ...]] = [("evaluation", "metric", "value", "95 %", "control", "95 % of it", "n")]
    for evaluation, metrics in scores.items():
        for metric, told in metrics.items():
            control = told["control"]
            beside = (percent(control["value"]), interval(control)) if control else ("none", "")
            rows.append((evaluation, metric, percent(told["value"]), interval(told), *beside, f"{told['n']:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
