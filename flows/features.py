"""The steps that keep vision tokens: one for each way in which the stages of a preset look at pictures."""

from collections.abc import Mapping

from flows.place import Place
from flows.train import BACKBONES, data_folders, data_inputs
from tasks.build import Request, Site
from tasks.features import FEATURES, FeaturesSpec, write_vision_tokens
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import Preset
from tinygptv_core.stages import Stage


def features_steps(preset: Preset, place: Place) -> tuple[Request, ...]:
    """Look at the pictures of the data sets whose vision tokens are kept: of the stages', and of their evaluations'."""
    looks = {_name(stage): stage for stage in preset.stages}
    wanted = {name: _kept(preset, [stage for stage in preset.stages if _name(stage) == name]) for name in looks}
    return tuple(_step(stage, wanted[name], place) for name, stage in looks.items() if wanted[name])


def features_aid(preset: Preset, stage: Stage) -> dict[str, str]:
    """What spares `stage` and its evaluations the tower, as an aid of their requests; empty if nothing does."""
    return {"features": _name(stage)} if _kept(preset, [stage]) else {}


def _name(stage: Stage) -> str:
    return f"features/{stage.image_size}-{stage.precision}"


def _kept(preset: Preset, stages: list[Stage]) -> tuple[str, ...]:
    read = {name for stage in stages for name in (*stage.mix, *(evals.load(item).dataset for item in stage.evals))}
    return tuple(sorted(name for name in read if preset.data[name].cached_vision))


def _step(stage: Stage, datasets: tuple[str, ...], place: Place) -> Request:
    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        spec = FeaturesSpec(
            backbones=inputs["backbones"].path,
            data=data_folders(inputs),
            image_size=stage.image_size,
            precision=stage.precision,
        )
        write_vision_tokens(spec, place.compute, site, place.progress(_name(stage)))

    return Request(
        name=_name(stage),
        step=FEATURES,
        config={"image_size": stage.image_size, "precision": stage.precision},
        inputs={"backbones": BACKBONES, **data_inputs(datasets)},
        work=work,
    )
