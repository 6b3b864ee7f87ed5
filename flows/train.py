"""The steps that bring the backbones and train the stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from flows.inputs import KINDS, data_folders, data_inputs
from flows.recipes import recipe
from flows.run_environment import RunEnvironment
from tasks.backbones_import import CONVERT, IMPORT, check_digest, convert_backbones, import_backbones, source_files
from tasks.build import Store
from tasks.request import Inputs, Request, StepFolders, TrainingEstimate
from tasks.tables import read_counts
from tasks.track import DataUsed, tracking_stage
from tasks.train import TRAIN
from tasks.training_estimates import estimate_training
from tasks.training_probe import probe
from tinygptv_core.artifact import Artifact
from tinygptv_core.parameters import sizes_in
from tinygptv_core.plain import ConfigError, plain
from tinygptv_core.run import RunSpec
from tinygptv_core.settings import SHIPPED, BackboneSettings
from tinygptv_core.sizes import ModelSizes
from tinygptv_core.stage import Stage, samples_drawn

BACKBONES = "backbones/import"


def backbones_step(backbones: BackboneSettings, store: Store) -> Request:
    """The frozen parts, those of the package or made from a user's files, checked against the preset's digest."""
    sources = backbones.sources
    if sources is None:

        def take(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
            import_backbones(backbones, folders)

        return Request(name=BACKBONES, step=IMPORT, config=backbones, inputs={}, work=take)

    def convert(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        convert_backbones(sources, folders)
        check_digest(backbones, folders.out)

    inputs, lacks = dict[str, Artifact](), None
    try:
        inputs = source_files(sources, store.root / "stamps")
    except ConfigError as error:
        lacks = str(error)
    return Request(name=BACKBONES, step=CONVERT, config=sources, inputs=inputs, work=convert, lacks=lacks)


def train_step(
    stage: Stage,
    earlier: Sequence[Stage],
    aids: Mapping[str, str],
    backbones: BackboneSettings,
    environment: RunEnvironment,
) -> Request:
    """Train `stage` from the checkpoint of the last of the stages before it; the first from fresh projections.

    Args:
        earlier: the stages before it. In a data set that they read in the same order it goes on about where they ended:
            how often chance has drawn one is known on average.
        aids: where the kept vision tokens come from, if there are some (`flows/features.py`).
        backbones: of the preset; before they are there, their sizes say what training would take.
    """
    training = _Training(
        stage=stage, earlier=tuple(earlier), is_aided=bool(aids), backbones=backbones, environment=environment
    )
    prompts, seen = training.prompts, training.seen
    return Request(
        name=f"{stage.name}/train",
        step=TRAIN,
        config={"stage": stage, "prompts": prompts, **({"seen": seen} if seen else {})},
        inputs={
            "backbones": BACKBONES,
            "init": f"{earlier[-1].name}/train" if earlier else None,
            **data_inputs(stage.mix),
        },
        work=training.train,
        aids=aids,
        estimate=training.estimate,
        probe=training.probe,
    )


@dataclass(frozen=True, kw_only=True)
class _Training:
    """A stage's training, and what it is expected to take."""

    stage: Stage
    earlier: tuple[Stage, ...]
    is_aided: bool
    backbones: BackboneSettings
    environment: RunEnvironment

    @cached_property
    def prompts(self) -> dict[str, tuple[str, ...]]:
        """What is asked of each data set's samples."""
        return {name: recipe(name).prompts for name in self.stage.mix}

    @cached_property
    def seen(self) -> dict[str, int]:
        """How many samples of each data set the stages before have drawn in the same order."""
        alike = [one for one in self.earlier if one.seed == self.stage.seed]
        drawn = {name: samples_drawn(alike, name) for name in self.stage.mix}
        return {name: count for name, count in drawn.items() if count}

    def train(self, inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        """Train it, with a run of the stage's own in MLflow."""
        stage, environment = self.stage, self.environment
        if not any(folders.scratch.glob("state-*")):  # what another run of it has told
            (folders.notes / "metrics.jsonl").unlink(missing_ok=True)
        data = [_used(name, inputs) for name in stage.mix]
        with tracking_stage(
            environment.tracking, stage.name, plain(stage), folders.notes, environment.pipeline_run, data
        ):
            with environment.workers() as workers:
                workers.train(self._spec(inputs, folders), environment.progress(f"{stage.name}/train"))

    def estimate(self, inputs: Inputs) -> TrainingEstimate:
        """From the last run like it, and from the model's sizes."""
        there = inputs.get("backbones")
        sizes = sizes_in(there.path) if there else sizes_of(self.backbones)
        environment = self.environment
        return estimate_training(self.stage, sizes, there, environment.options, environment.store, aided=self.is_aided)

    def probe(self, inputs: Inputs) -> TrainingEstimate | None:
        """From some steps, if what they read is there.

        What a stage starts from bears on no size, so that it can be tried before the one before it is trained.
        """
        there = {name: item for name, item in inputs.items() if item is not None and name != "init"}
        if inputs.keys() - there.keys() - {"init"}:
            return None
        return probe(lambda folders: self._spec(there, folders), aided=self.is_aided)

    def _spec(self, inputs: Mapping[str, Artifact], folders: StepFolders) -> RunSpec:
        init = inputs.get("init")
        return RunSpec(
            stage=self.stage,
            prompts=self.prompts,
            data=data_folders(inputs),
            backbones=inputs["backbones"].path,
            init=init.path if init else None,
            options=self.environment.options,
            out=folders.out,
            work=folders.scratch,
            notes=folders.notes,
            seen=self.seen,
            features=inputs["features"].path if "features" in inputs else None,
        )


def _used(name: str, inputs: Mapping[str, Artifact]) -> DataUsed:
    """A data set among the inputs, as MLflow is told of it."""
    return DataUsed(
        name=name,
        artifacts={role: inputs[role].digest for role in data_inputs((name,))},
        counts={KINDS[kind]: read_counts(inputs[f"{kind}.{name}"].path) for kind in KINDS},
        about={"recipe": name, "source": recipe(name).source, "licence": recipe(name).licence},
    )


def sizes_of(backbones: BackboneSettings) -> ModelSizes:
    """Those of a preset's backbones before they are there."""
    return sizes_in(SHIPPED / backbones.name) if backbones.sources is None else backbones.sources.sizes
