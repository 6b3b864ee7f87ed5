"""The steps that bring the backbones and train the stages."""

from collections.abc import Mapping

from flows.data import recipe
from flows.place import Place
from tasks.backbones_import import IMPORT, import_backbones
from tasks.build import Request, Site
from tasks.track import tracking_stage
from tasks.train import TRAIN, train_on_ray
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import plain
from tinygptv_core.presets import Preset
from tinygptv_core.run import DataFolders, RunSpec
from tinygptv_core.stages import Stage

BACKBONES = "backbones/import"


def backbones_step(preset: Preset) -> Request:
    """The frozen parts, checked against the preset's digest."""

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        import_backbones(preset.backbones, site)

    return Request(name=BACKBONES, step=IMPORT, config=preset.backbones, inputs={}, work=work)


def data_inputs(names: Mapping[str, object] | tuple[str, ...]) -> dict[str, str]:
    """The inputs that reading these data sets takes: of each its shards and its index."""
    return {f"{kind}.{name}": f"{name}/{step}" for name in names for kind, step in KINDS.items()}


def data_folders(inputs: Mapping[str, Artifact]) -> dict[str, DataFolders]:
    """The folders of the data sets among `inputs`."""
    names = [name.removeprefix("shards.") for name in inputs if name.startswith("shards.")]
    return {n: DataFolders(shards=inputs[f"shards.{n}"].path, index=inputs[f"index.{n}"].path) for n in names}


KINDS = {"shards": "fetch", "index": "screen"}


def train_step(stage: Stage, before: str | None, place: Place) -> Request:
    """Train `stage` from the checkpoint of the stage `before` it; None starts from fresh projections."""
    prompts = {name: recipe(name).prompts for name in stage.mix}

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        init = inputs.get("init")
        spec = RunSpec(
            stage=stage,
            prompts=prompts,
            data=data_folders(inputs),
            backbones=inputs["backbones"].path,
            init=init.path if init else None,
            options=place.options,
            out=site.out,
            work=site.scratch,
            notes=site.notes,
        )
        _ = place.cluster
        with tracking_stage(place.tracking, stage.name, plain(stage), site.notes, place.pipeline_run):
            train_on_ray(spec, f"{stage.name}-{site.notes.name}", place.progress(f"{stage.name}/train"))

    return Request(
        name=f"{stage.name}/train",
        step=TRAIN,
        config={"stage": stage, "prompts": prompts},
        inputs={
            "backbones": BACKBONES,
            "init": f"{before}/train" if before else None,
            **data_inputs(stage.mix),
        },
        work=work,
    )
