"""The steps that keep vision tokens: of what a stage trains on, and of what evaluations ask about."""

from collections.abc import Iterable, Mapping

from flows.inputs import data_folders, data_inputs
from flows.run_environment import RunEnvironment
from flows.train import BACKBONES
from flows.vision_cache import kept_in_evaluation, kept_in_training
from tasks.features import FEATURES, FeaturesSpec, write_vision_tokens
from tasks.request import Request, StepFolders
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import Preset
from tinygptv_core.stage import Stage

FeatureSteps = Mapping[str, tuple[str, tuple[str, ...]]]
"""Stage -> the name of a step of its own, and the data sets that it looks at whose vision tokens are kept."""


def training_features(preset: Preset, environment: RunEnvironment) -> dict[str, tuple[Request, ...]]:
    """Stage -> `stageN/features`, of the data sets of its mix whose vision tokens are kept; nothing if none are."""
    kept = kept_in_training(preset)
    return _shared({s.name: (f"{s.name}/features", _in(kept, s.mix)) for s in preset.stages}, preset, environment)


def evaluation_features(preset: Preset, environment: RunEnvironment) -> dict[str, tuple[Request, ...]]:
    """Stage -> the same for its evaluations."""
    kept = kept_in_evaluation(preset)
    asked = {s.name: _in(kept, {evals.load(name).dataset for name in s.evals}) for s in preset.stages}
    return _shared(
        {stage: (f"evaluation-{stage}/features", names) for stage, names in asked.items()}, preset, environment
    )


def _in(kept: frozenset[str], datasets: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(kept.intersection(datasets)))


def _shared(wanted: FeatureSteps, preset: Preset, environment: RunEnvironment) -> dict[str, tuple[Request, ...]]:
    """One step for all stages that see the same pictures the same way, named for the first of them."""
    steps: dict[object, tuple[Request, ...]] = {}
    found: dict[str, tuple[Request, ...]] = {}
    for stage in preset.stages:
        name, kept = wanted[stage.name]
        seen = (kept, stage.image_size, stage.precision)
        found[stage.name] = steps.setdefault(seen, _steps(name, kept, stage, environment))
    return found


def aids(features: tuple[Request, ...]) -> dict[str, str]:
    """The features as aids of the request that reads them."""
    return {"features": features[0].name} if features else {}


def _steps(name: str, kept: tuple[str, ...], stage: Stage, environment: RunEnvironment) -> tuple[Request, ...]:
    if not kept:
        return ()

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        spec = FeaturesSpec(
            backbones=inputs["backbones"].path,
            data=data_folders(inputs),
            image_size=stage.image_size,
            precision=stage.precision,
        )
        write_vision_tokens(spec, environment.compute, folders, environment.progress(name))

    return (
        Request(
            name=name,
            step=FEATURES,
            config={"image_size": stage.image_size, "precision": stage.precision},
            inputs={"backbones": BACKBONES, **data_inputs(kept)},
            work=work,
        ),
    )
