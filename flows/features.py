"""The steps that keep vision tokens: of what a stage trains on, and of what evaluations ask about."""

from collections.abc import Iterable, Mapping

from flows.place import Place
from flows.train import BACKBONES, data_folders, data_inputs
from tasks.build import Request, Site
from tasks.features import FEATURES, FeaturesSpec, write_vision_tokens
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import Preset
from tinygptv_core.stages import Stage


def training_features(preset: Preset, stage: Stage, place: Place) -> tuple[Request, ...]:
    """`stageN/features`, of the data sets of its mix whose vision tokens are kept; nothing if none are."""
    return _steps(f"{stage.name}/features", stage.mix, preset, stage, place)


def evaluation_features(preset: Preset, place: Place) -> dict[str, tuple[Request, ...]]:
    """Stage -> the same for its evaluations: one step for all stages that ask about the same, seen the same way."""
    steps: dict[object, tuple[Request, ...]] = {}
    found: dict[str, tuple[Request, ...]] = {}
    for stage in preset.stages:
        datasets = sorted({evals.load(name).dataset for name in stage.evals})
        seen = (*datasets, stage.image_size, stage.precision)
        name = f"evaluation-{stage.name}/features" if steps else "evaluation/features"
        found[stage.name] = steps.setdefault(seen, _steps(name, datasets, preset, stage, place))
    return found


def aids(features: tuple[Request, ...]) -> dict[str, str]:
    """The features as aids of the request that reads them."""
    return {"features": features[0].name} if features else {}


def _steps(name: str, datasets: Iterable[str], preset: Preset, stage: Stage, place: Place) -> tuple[Request, ...]:
    kept = tuple(sorted(item for item in datasets if preset.data[item].cached_vision))
    if not kept:
        return ()

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        spec = FeaturesSpec(
            backbones=inputs["backbones"].path,
            data=data_folders(inputs),
            image_size=stage.image_size,
            precision=stage.precision,
        )
        write_vision_tokens(spec, place.compute, site, place.progress(name))

    return (
        Request(
            name=name,
            step=FEATURES,
            config={"image_size": stage.image_size, "precision": stage.precision},
            inputs={"backbones": BACKBONES, **data_inputs(kept)},
            work=work,
        ),
    )
