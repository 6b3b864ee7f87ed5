"""The steps that score a checkpoint and put the last one into the registry."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flows.data import recipe
from flows.place import Place, Progress
from flows.train import BACKBONES, data_folders, data_inputs
from tasks.build import Request, Site
from tasks.evaluate import EVALUATE, ComputeOptions, EvaluationSpec, evaluate_checkpoint
from tasks.model_card import CardFacts, TrainedOn
from tasks.register import REGISTER, ModelSpec, Registration, register_version, write_model
from tasks.registry import registered
from tasks.tables import data_counts
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact, digest_of, members_of
from tinygptv_core.presets import Preset
from tinygptv_core.stages import Stage

FRESH = "fresh"


class Evaluates(Protocol):
    """Where an evaluation computes, and who is told how far a step is; of a run, its `Place`."""

    @property
    def compute(self) -> ComputeOptions: ...

    @property
    def progress(self) -> Callable[[str], Progress]: ...


def evaluate_step(stage: Stage, trained: str | None, aids: Mapping[str, str], place: Evaluates) -> Request:
    """Score `stage` on its evaluations; `trained` None scores its fresh projections, before any training.

    Args:
        aids: where the kept vision tokens come from, if there are some (`flows/features.py`).
    """
    name = f"{trained or FRESH}/evaluate"
    wanted = {eval_name: evals.load(eval_name) for eval_name in stage.evals}
    datasets = tuple(dict.fromkeys(item.dataset for item in wanted.values()))

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        checkpoint = inputs.get("checkpoint")
        spec = EvaluationSpec(
            stage=stage,
            evals=stage.evals,
            backbones=inputs["backbones"].path,
            checkpoint=checkpoint.path if checkpoint else None,
            data=data_folders(inputs),
            features=inputs["features"].path if "features" in inputs else None,
        )
        evaluate_checkpoint(spec, place.compute, site, place.progress(name))

    return Request(
        name=name,
        step=EVALUATE,
        config={
            "evals": wanted,
            "template": stage.asks,
            "end_symbol": stage.end_symbol,
            "image_size": stage.image_size,
            "precision": stage.precision,
            "lora": stage.lora if trained else None,
            "seed": stage.seed,
            **({"without": stage.without} if stage.without and not trained else {}),  # a checkpoint says it itself
        },
        inputs={
            "backbones": BACKBONES,
            "checkpoint": f"{trained}/train" if trained else None,
            **data_inputs(datasets),
        },
        work=work,
        aids=aids,
    )


def register_step(preset: Preset, init: str | None, place: Place) -> Request:
    """Put the last stage's checkpoint, its scores and where all of it came from into the registry.

    Args:
        init: the stage whose checkpoint the run begins with. What that one was trained on is not known here.
    """
    last = preset.stages[-1]
    shown = evals.load(last.evals[0])  # its prompt goes around a person's question, its data give the example
    drawing = [stage for stage in preset.stages if stage.name != init]
    drawn = tuple(dict.fromkeys(name for stage in drawing for name in stage.mix))
    sources = {
        "backbones": BACKBONES,
        **{f"table.{name}": f"{name}/filter" for name in drawn},
        **data_inputs((*drawn, shown.dataset)),
        **{f"checkpoint.{stage.name}": f"{stage.name}/train" for stage in preset.stages},
        **{f"scores.{stage.name}": f"{stage.name}/evaluate" for stage in preset.stages},
        **({} if init else {f"scores.{FRESH}": f"{FRESH}/evaluate"}),
    }

    licences = {name: {"licence": recipe(name).licence, "citation": recipe(name).citation} for name in drawn}

    def facts(inputs: Mapping[str, Artifact]) -> CardFacts:
        data = [_trained_on(drawing, name, inputs) for name in drawn]
        scored = [name for name in (FRESH, *(s.name for s in preset.stages)) if f"scores.{name}" in inputs]
        return CardFacts(
            name=preset.model_name,
            data=tuple(data),
            scores={name: _scores(inputs[f"scores.{name}"]) for name in scored},
            sources={sources[name]: artifact.digest for name, artifact in inputs.items()},
            init=init,
        )

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        checkpoint, backbones = inputs[f"checkpoint.{last.name}"], inputs["backbones"]
        told = facts(inputs)
        spec = ModelSpec(
            stage=last,
            evaluation=last.evals[0],
            backbones_name=preset.backbones.name,
            backbones_digest=backbones.digest,
            checkpoint=checkpoint,
            data=data_folders(inputs)[shown.dataset],
            facts=told,
        )
        write_model(spec, site)
        registration = Registration(
            tracking_uri=place.tracking_uri,
            artifacts=place.home / "mlflow" / "artifacts",
            experiment=preset.name,
            parent_run=place.pipeline_run,
            name=preset.model_name,
            stage=last.name,
            checkpoint_digest=checkpoint.digest,
            backbones=backbones.path,
            bundle=place.bundle,
            sources=told.sources,
            scores=told.scores[last.name],
        )
        model = Artifact(kind=REGISTER.kind, digest=digest_of(members_of(site.out)), path=site.out)
        with place.registry_alone():
            register_version(model, registration)

    def gone(artifact: Artifact) -> str | None:
        if registered(place.tracking_uri, preset.model_name, artifact.digest, bundled=place.bundle):
            return None
        what = "it and its backbones" if place.bundle else "it"
        return f"the registry at {place.tracking_uri} holds no version of {preset.model_name} with {what}"

    return Request(
        name="register",
        step=REGISTER,
        config={"name": preset.model_name, "evaluation": shown, "precision": last.precision, "licences": licences},
        inputs=sources,
        work=work,
        gone=gone,
    )


def _scores(scored: Artifact) -> dict[str, Any]:
    return json.loads((scored.path / "scores.json").read_text())


def _trained_on(stages: Sequence[Stage], name: str, inputs: Mapping[str, Artifact]) -> TrainedOn:
    counts = data_counts(*(inputs[f"{kind}.{name}"].path for kind in ("table", "shards", "index")))
    return TrainedOn(
        name=name,
        stages=tuple(stage.name for stage in stages if name in stage.mix),
        licence=recipe(name).licence,
        citation=recipe(name).citation,
        **counts,
    )
