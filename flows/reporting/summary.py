"""A run's report, from what lies in the store: all of it can be read again later."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.choosing.choice import Prepared
from flows.evaluate import FRESH
from flows.inputs import data_folders, data_inputs
from flows.recipes import recipe
from flows.run_environment import RunEnvironment
from tasks.build import BuildResult
from tasks.registering.registry import CHECKPOINT_TAG, registered
from tasks.reporting.card import STEPS, DataCardSources
from tasks.reporting.cards import write_cards
from tasks.reporting.report import (
    BandReport,
    DataReport,
    InitReport,
    ModelReport,
    PredictionReport,
    Report,
    ReportDetails,
    StageReport,
    StepReport,
)
from tasks.request import TrainingEstimate
from tasks.tables import data_counts
from tasks.training.told import summary_in
from tinygptv_core import evals
from tinygptv_core.presets import Preset
from tinygptv_core.run import DataFolders
from tinygptv_core.stage import Stage
from tinygptv_core.training.bands import band_of
from tinygptv_core.training.metrics import lines_of

if TYPE_CHECKING:
    from tasks.reporting.report_page import Page

UNTOLD = "its losses, times and curves are not in this store: it was trained elsewhere, or its notes were removed"


def report_on(prepared: Prepared, built: Mapping[str, BuildResult]) -> tuple[Report, "Page", Path]:
    """Write report.json and report.html of the run: what is in them, and the path of the first."""
    from tasks.reporting.report_page import Page

    preset, environment = prepared.preset, prepared.environment
    trained = [stage.name for stage in preset.stages if f"{stage.name}/train" in built]
    told = {name: _told(environment, built[f"{name}/train"]) for name in trained}
    report: Report = {
        "run": environment.run,
        "preset": preset.name,
        "world_size": told[trained[-1]].get("world_size") if trained else None,
        "steps": [_step(item) for item in built.values()],
        "data": {name: _data(built, name) for name in preset.data if f"{name}/screen" in built},
        "fresh": {"scores": _scores(built, FRESH)} if f"{FRESH}/evaluate" in built else None,
        "init": _init(built, preset.stages[0].name),
        "stages": {name: _stage(prepared, built, name, told[name]) for name in trained},
        "scores": _scores(built, preset.stages[-1].name),
        "model": _model(prepared, built),
    }
    sources = [_card_sources(built, name) for name in report["data"]]
    cards = write_cards(sources, environment.report_folder / "data", environment.home / "cards")
    page = Page(report, _details(prepared, built, cards))
    return report, page, page.write(environment.report_folder)


def _step(item: BuildResult) -> StepReport:
    return {
        "step": item.name,
        "action": item.action,
        "why": item.why,
        "seconds": item.seconds,
        "artifact": item.artifact.digest,
    }


def _data(built: Mapping[str, BuildResult], name: str) -> DataReport:
    counts = data_counts(*(built[f"{name}/{step}"].artifact.path for step in STEPS))
    return {"rows": counts["rows"], "kept": counts["kept"], "dropped": counts["dropped"]}


def _told(environment: RunEnvironment, trained: BuildResult) -> dict[str, Any]:
    """What the processes that trained a stage told about it; nothing where that was pulled without it, or removed."""
    return summary_in(environment.store.notes(trained.key)) or {}


def _init(built: Mapping[str, BuildResult], first: str) -> InitReport | None:
    """The preset's first stage where its checkpoint was given: it was evaluated, but not trained."""
    if f"{first}/train" in built or f"{first}/evaluate" not in built:
        return None
    return {"stage": first, "scores": _scores(built, first)}


def _stage(prepared: Prepared, built: Mapping[str, BuildResult], name: str, told: Mapping[str, Any]) -> StageReport:
    stage = next(stage for stage in prepared.preset.stages if stage.name == name)
    return {
        "steps": stage.schedule.steps,
        "loss_first": told.get("loss_first"),
        "loss_last": told.get("loss_last"),
        "seconds": told.get("seconds"),
        "peak_memory_bytes": told.get("peak_memory_bytes"),
        "samples_per_second": told.get("samples_per_second"),
        # Stages of earlier versions had none.
        "notices": told.get("notices", []) if told else [UNTOLD],
        "scores": _scores(built, name),
        "expected": _expected(prepared.preset, stage, told.get("loss_last")),
        "predicted": _predicted(prepared, built, name),
        "warnings": _warnings(_metrics(prepared.environment, built, name)),
    }


def _expected(preset: Preset, stage: Stage, loss: float | None) -> BandReport | None:
    band = band_of(preset.name, stage)
    if band is None or loss is None:
        return None
    return {"low": band.low, "high": band.high, "source": band.source, "verdict": band.verdict(loss)}


def _predicted(prepared: Prepared, built: Mapping[str, BuildResult], name: str) -> PredictionReport | None:
    """What the plan said that this run began with, of a stage that it has built: it may yet have been reused."""
    step = f"{name}/train"
    for item in prepared.planned:
        if item.step == step and built[step].action == "build" and isinstance(taken := item.estimate, TrainingEstimate):
            return {"seconds": taken.seconds, "memory_bytes": taken.memory_bytes, "by": taken.by}
    return None


def _metrics(environment: RunEnvironment, built: Mapping[str, BuildResult], name: str) -> Path:
    return environment.store.notes(built[f"{name}/train"].key) / "metrics.jsonl"


def _warnings(metrics: Path) -> list[str]:
    return [text for line in lines_of(metrics) for text in line.get("warnings", [])]


def _scores(built: Mapping[str, BuildResult], name: str) -> dict[str, Any]:
    if f"{name}/evaluate" not in built:
        return {}
    return json.loads((built[f"{name}/evaluate"].artifact.path / "scores.json").read_text())


def _model(prepared: Prepared, built: Mapping[str, BuildResult]) -> ModelReport | None:
    if "register" not in built:
        return None
    name = prepared.preset.model_name
    version = registered(prepared.environment.tracking_uri, name, built["register"].artifact.digest)
    if version is None:
        raise RuntimeError(f"{name} was registered at {prepared.environment.tracking_uri}, but is not there any more")
    return {
        "name": name,
        "version": version.version,
        "aliases": list(version.aliases),
        "checkpoint_digest": version.tags[CHECKPOINT_TAG],
    }


def _card_sources(built: Mapping[str, BuildResult], name: str) -> DataCardSources:
    made = {step: built[f"{name}/{step}"].artifact for step in STEPS}
    return DataCardSources(
        name=name,
        recipe=recipe(name),
        folders={step: artifact.path for step, artifact in made.items()},
        digests={step: artifact.digest for step, artifact in made.items()},
        read=_folders(built, name),
    )


def _details(prepared: Prepared, built: Mapping[str, BuildResult], cards: Mapping[str, Path]) -> ReportDetails:
    environment, preset = prepared.environment, prepared.preset
    evaluated = [name for name in (FRESH, *(s.name for s in preset.stages)) if f"{name}/evaluate" in built]
    asked = {name: evals.load(name).dataset for stage in preset.stages for name in stage.evals}
    return ReportDetails(
        metrics={
            stage.name: _metrics(environment, built, stage.name)
            for stage in preset.stages
            if f"{stage.name}/train" in built
        },
        answers={name: built[f"{name}/evaluate"].artifact.path / "answers.jsonl" for name in evaluated},
        pictures={name: _folders(built, data) for name, data in asked.items() if f"{data}/screen" in built},
        cards={name: page.relative_to(environment.report_folder).as_posix() for name, page in cards.items()},
        facts={
            "home": str(environment.home),
            "command": " ".join(["tinygptv", *sys.argv[1:]]),
            "machine": f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        },
    )


def _folders(built: Mapping[str, BuildResult], name: str) -> DataFolders:
    read = {role: built[step].artifact for role, step in data_inputs((name,)).items()}
    return data_folders(read)[name]
