"""The steps that score a checkpoint and put the last one into the registry."""

from collections.abc import Mapping

from flows.place import Place
from flows.train import BACKBONES, data_folders, data_inputs
from tasks.build import Request, Site
from tasks.evaluate import EVALUATE, EvaluationOptions, EvaluationSpec, evaluate_checkpoint
from tasks.register import REGISTER, register_model, registered
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import Preset
from tinygptv_core.stages import Stage

FRESH = "fresh"


def evaluate_step(stage: Stage, trained: str | None, place: Place) -> Request:
    """Score `stage` on its evaluations; `trained` None scores its fresh projections, before any training."""
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
        )
        options = EvaluationOptions(device=place.options.device, threads=place.options.processes)
        evaluate_checkpoint(spec, options, site, place.progress(name))

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
        },
        inputs={
            "backbones": BACKBONES,
            "checkpoint": f"{trained}/train" if trained else None,
            **data_inputs(datasets),
        },
        work=work,
    )


def register_step(preset: Preset, place: Place) -> Request:
    """Put the last stage's checkpoint, its scores and where all of it came from into the registry."""
    last = preset.stages[-1]

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        register_model(preset, inputs, place.tracking_uri, place.run, site)

    def gone(artifact: Artifact) -> str | None:
        found = registered(place.tracking_uri, preset.model_name, artifact.digest)
        return (
            None if found else f"the registry at {place.tracking_uri} holds no version of {preset.model_name} with it"
        )

    trained = {f"checkpoint.{stage.name}": f"{stage.name}/train" for stage in preset.stages}
    scored = {f"scores.{stage.name}": f"{stage.name}/evaluate" for stage in preset.stages}
    drawn = dict.fromkeys(name for stage in preset.stages for name in stage.mix)
    tables = {f"table.{name}": f"{name}/filter" for name in drawn}
    return Request(
        name="register",
        step=REGISTER,
        config={"name": preset.model_name, "preset": preset.name, "stage": last},
        inputs={"backbones": BACKBONES, **tables, **data_inputs(drawn), **trained, **scored},
        work=work,
        gone=gone,
    )
