"""A run's report, from what lies in the store: all of it can be read again later."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.choice import Prepared
from flows.evaluate import FRESH
from flows.place import Place
from tasks.build import Built
from tasks.register import registered
from tasks.report import Report, ReportDetails, write_report
from tasks.tables import data_counts
from tinygptv_core import evals
from tinygptv_core.run import DataFolders

DATA_STEPS = ("rows", "filter", "fetch", "screen")


def report_on(prepared: Prepared, built: Mapping[str, Built]) -> Path:
    """Write report.json and report.html of the run; the path of the first."""
    preset, place = prepared.preset, prepared.place
    stages = {stage.name: _stage(place, built, stage.name) for stage in preset.stages if f"{stage.name}/train" in built}
    world_sizes = [stage.pop("world_size") for stage in stages.values()]
    last = preset.stages[-1].name
    report: Report = {
        "run": place.run,
        "preset": preset.name,
        "world_size": world_sizes[-1] if world_sizes else place.options.processes,
        "steps": [
            {"step": b.name, "action": b.action, "why": b.why, "seconds": b.seconds, "artifact": b.artifact.digest}
            for b in built.values()
        ],
        "data": {
            name: data_counts(*(built[f"{name}/{step}"].artifact.path for step in DATA_STEPS))
            for name in preset.data
            if f"{name}/screen" in built
        },
        "fresh": {"scores": _scores(built, FRESH)} if f"{FRESH}/evaluate" in built else None,
        "stages": stages,
        "scores": _scores(built, last),
        "model": _model(prepared, built),
    }
    return write_report(report, place.report_folder, _details(prepared, built))


def _stage(place: Place, built: Mapping[str, Built], name: str) -> dict[str, Any]:
    """What the training of a stage told, with its scores."""
    summary = json.loads((place.store.notes(built[f"{name}/train"].key) / "summary.json").read_text())
    wanted = ("steps", "loss_first", "loss_last", "seconds", "peak_memory_bytes", "samples_per_second", "world_size")
    return {**{field: summary[field] for field in wanted}, "scores": _scores(built, name)}


def _scores(built: Mapping[str, Built], name: str) -> dict[str, Any]:
    if f"{name}/evaluate" not in built:
        return {}
    return json.loads((built[f"{name}/evaluate"].artifact.path / "scores.json").read_text())


def _model(prepared: Prepared, built: Mapping[str, Built]) -> dict[str, Any] | None:
    if "register" not in built:
        return None
    name = prepared.preset.model_name
    version = registered(prepared.place.tracking_uri, name, built["register"].artifact.digest)
    last = prepared.preset.stages[-1].name
    return {
        "name": name,
        "version": version.version,
        "aliases": list(version.aliases),
        "checkpoint_digest": built[f"{last}/train"].artifact.digest,
    }


def _details(prepared: Prepared, built: Mapping[str, Built]) -> ReportDetails:
    place, preset = prepared.place, prepared.preset
    evaluated = [name for name in (FRESH, *(s.name for s in preset.stages)) if f"{name}/evaluate" in built]
    asked = {name: evals.load(name).dataset for stage in preset.stages for name in stage.evals}
    return ReportDetails(
        metrics={
            stage.name: place.store.notes(built[f"{stage.name}/train"].key) / "metrics.jsonl"
            for stage in preset.stages
            if f"{stage.name}/train" in built
        },
        answers={name: built[f"{name}/evaluate"].artifact.path / "answers.jsonl" for name in evaluated},
        pictures={name: _folders(built, data) for name, data in asked.items() if f"{data}/screen" in built},
        facts={"home": str(place.home)},
    )


def _folders(built: Mapping[str, Built], name: str) -> DataFolders:
    return DataFolders(shards=built[f"{name}/fetch"].artifact.path, index=built[f"{name}/screen"].artifact.path)
