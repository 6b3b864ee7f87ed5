"""The step that scores a checkpoint."""

from collections.abc import Callable, Mapping
from typing import Protocol

from flows.inputs import data_folders, data_inputs
from flows.train import BACKBONES
from tasks.evaluate import EVALUATE, EvaluationSpec, evaluate_checkpoint
from tasks.request import Request, StepFolders
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.compute import Compute, Progress
from tinygptv_core.stage import Stage

FRESH = "fresh"


class EvaluationEnvironment(Protocol):
    """Where an evaluation computes, and who is told how far a step is; of a run, its `RunEnvironment`."""

    @property
    def compute(self) -> Compute: ...

    @property
    def progress(self) -> Callable[[str], Progress]: ...


def evaluate_step(
    stage: Stage, trained: str | None, aids: Mapping[str, str], environment: EvaluationEnvironment
) -> Request:
    """Score `stage` on its evaluations; `trained` None scores its fresh projections, before any training.

    Args:
        aids: where the kept vision tokens come from, if there are some (`flows/features.py`).
    """
    name = f"{trained or FRESH}/evaluate"
    wanted = {eval_name: evals.load(eval_name) for eval_name in stage.evals}
    datasets = tuple(dict.fromkeys(item.dataset for item in wanted.values()))

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        checkpoint = inputs.get("checkpoint")
        spec = EvaluationSpec(
            stage=stage,
            evals=stage.evals,
            backbones=inputs["backbones"].path,
            checkpoint=checkpoint.path if checkpoint else None,
            data=data_folders(inputs),
            features=inputs["features"].path if "features" in inputs else None,
        )
        evaluate_checkpoint(spec, environment.compute, folders, environment.progress(name))

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
