"""The step that puts the last stage's checkpoint into the registry, with its scores and where all of it came from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flows.evaluate import FRESH
from flows.inputs import KINDS, data_folders, data_inputs
from flows.recipes import recipe
from flows.run_environment import RunEnvironment
from flows.train import BACKBONES
from tasks.register import REGISTER, ModelSpec, Registration, register_version, write_model
from tasks.registering.model_card import ModelCardFacts, TrainedOn
from tasks.registering.registry import registered
from tasks.request import Request, StepFolders
from tasks.tables import data_counts
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact, digest_of, members_of
from tinygptv_core.evals import Eval
from tinygptv_core.presets import Preset
from tinygptv_core.stage import Stage

Inputs = Mapping[str, Artifact]

COUNTED = {"rows": "rows", "table": "filter"}
"""What is read of a data set only for its counts, and the step of the data set that makes it."""


def register_step(preset: Preset, init: str | None, environment: RunEnvironment) -> Request:
    """Put the last stage's checkpoint, its scores and where all of it came from into the registry.

    Args:
        init: the stage whose checkpoint the run begins with. What that one was trained on is not known here.
    """
    model = _Model(preset=preset, init=init, environment=environment)
    licences = {name: {"licence": recipe(name).licence, "citation": recipe(name).citation} for name in model.drawn}
    return Request(
        name="register",
        step=REGISTER,
        config={
            "name": preset.model_name,
            "evaluation": model.shown,
            "precision": model.last.precision,
            "licences": licences,
        },
        inputs=model.sources,
        work=model.register,
        gone=model.gone,
    )


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What a run registers, and what it needs of the run's artifacts."""

    preset: Preset
    init: str | None
    environment: RunEnvironment

    @property
    def last(self) -> Stage:
        """The stage whose checkpoint it is."""
        return self.preset.stages[-1]

    @cached_property
    def shown_name(self) -> str:
        """The evaluation whose prompt goes around a person's question, and whose data give the example.

        The last stage's first that has a place for a question; where none has, its first.
        """
        names = self.last.evals
        return next((name for name in names if evals.load(name).has_questions), names[0])

    @property
    def shown(self) -> Eval:
        """That evaluation."""
        return evals.load(self.shown_name)

    @property
    def drawing(self) -> list[Stage]:
        """The stages that this run trained."""
        return [stage for stage in self.preset.stages if stage.name != self.init]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The data sets that they drew from."""
        return tuple(dict.fromkeys(name for stage in self.drawing for name in stage.mix))

    @cached_property
    def sources(self) -> dict[str, str]:
        """The request that makes each input, by the input's name."""
        stages = [stage.name for stage in self.preset.stages]
        return {
            "backbones": BACKBONES,
            **{f"{kind}.{name}": f"{name}/{step}" for name in self.drawn for kind, step in COUNTED.items()},
            **data_inputs((*self.drawn, self.shown.dataset)),
            **{f"checkpoint.{stage}": f"{stage}/train" for stage in stages},
            **{f"scores.{stage}": f"{stage}/evaluate" for stage in stages},
            **({} if self.init else {f"scores.{FRESH}": f"{FRESH}/evaluate"}),
        }

    def facts(self, inputs: Inputs) -> ModelCardFacts:
        """What the model's card says of its past."""
        scored = [name for name in (FRESH, *(s.name for s in self.preset.stages)) if f"scores.{name}" in inputs]
        return ModelCardFacts(
            name=self.preset.model_name,
            data=tuple(trained_on(name, self._drawing(name), inputs) for name in self.drawn),
            scores={name: _scores(inputs[f"scores.{name}"]) for name in scored},
            sources={self.sources[name]: artifact.digest for name, artifact in inputs.items()},
            init=self.init,
        )

    def _drawing(self, name: str) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.drawing if name in stage.mix)

    def register(self, inputs: Inputs, folders: StepFolders) -> None:
        """Write the model and register it: a version that is there already is not made again."""
        checkpoint, backbones, facts = inputs[f"checkpoint.{self.last.name}"], inputs["backbones"], self.facts(inputs)
        spec = ModelSpec(
            stage=self.last,
            evaluation=self.shown_name,
            backbones_name=self.preset.backbones.name,
            backbones_digest=backbones.digest,
            checkpoint=checkpoint,
            data=data_folders(inputs)[self.shown.dataset],
            facts=facts,
        )
        write_model(spec, folders)
        registration = Registration(
            tracking_uri=self.environment.tracking_uri,
            artifacts=self.environment.home / "mlflow" / "artifacts",
            experiment=self.preset.name,
            parent_run=self.environment.pipeline_run,
            name=self.preset.model_name,
            stage=self.last.name,
            checkpoint_digest=checkpoint.digest,
            backbones=backbones.path,
            bundle=self.environment.bundle,
            sources=facts.sources,
            scores=facts.scores[self.last.name],
        )
        model = Artifact(kind=REGISTER.kind, digest=digest_of(members_of(folders.out)), path=folders.out)
        with self.environment.registry_alone():
            register_version(model, registration)

    def gone(self, artifact: Artifact) -> str | None:
        """That the registry holds no version of a model that was built, in words."""
        environment, name = self.environment, self.preset.model_name
        if registered(environment.tracking_uri, name, artifact.digest, bundled=environment.bundle):
            return None
        what = "it and its backbones" if environment.bundle else "it"
        return f"the registry at {environment.tracking_uri} holds no version of {name} with {what}"


def trained_on(name: str, stages: tuple[str, ...], inputs: Inputs) -> TrainedOn:
    """What the model's card says of a data set that `stages` drew from."""
    counts = data_counts(*(inputs[f"{kind}.{name}"].path for kind in (*COUNTED, *KINDS)))
    form = recipe(name)
    return TrainedOn(name=name, stages=stages, licence=form.licence, citation=form.citation, **counts)


def _scores(scored: Artifact) -> dict[str, Any]:
    return json.loads((scored.path / "scores.json").read_text())
