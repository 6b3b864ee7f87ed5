"""backbones + checkpoint + data -> scores and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.request import Step, StepFolders
from tinygptv_core.compute import Compute, Progress
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import DataFolders
from tinygptv_core.stage import Stage

EVALUATE = Step(name="evaluate", kind="scores", version=3)


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """What is scored.

    Attributes:
        stage: whose template is used; its projections and seed too when there is no checkpoint.
        evals: evaluations by name. (`Stage.evals` is what a preset wants; this is what is asked for.)
        checkpoint: None scores the model that the stage starts from with fresh projections.
        data: every data set that one of the evaluations reads -> its folders.
        features: kept vision tokens, where there are some.
    """

    stage: Stage
    evals: tuple[str, ...]
    backbones: Path
    checkpoint: Path | None
    data: Mapping[str, DataFolders]
    features: Path | None


def evaluate_checkpoint(spec: EvaluationSpec, options: Compute, folders: StepFolders, progress: Progress) -> None:
    """Write scores.json and answers.jsonl into `folders.out`. Runs in this process.

    Raises:
        ConfigError: no such evaluation, an empty data set, or the checkpoint is of another stage.
    """
    import torch

    from tinygptv_core.answer import load_fresh, load_trained
    from tinygptv_core.checkpoint_form import check_norms
    from tinygptv_core.evaluate import evaluate, write_results
    from tinygptv_core.features import Features
    from tinygptv_core.prepack import prepack
    from tinygptv_core.shards import ShardSet

    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        if spec.checkpoint is None:
            trained = load_fresh(spec.backbones, spec.stage, options.device)
        else:
            trained = load_trained(spec.backbones, spec.checkpoint, spec.stage.precision, options.device)
        if spec.checkpoint is not None:
            check_norms(spec.checkpoint, trained.form, spec.stage)
        if trained.form.name != spec.stage.name:
            raise ConfigError(f"{spec.checkpoint} is a checkpoint of {trained.form.name}, not of {spec.stage.name}")
        prepack(trained.model)
        data = {name: ShardSet(found) for name, found in spec.data.items()}
        features = Features(spec.features) if spec.features else None
        write_results(evaluate(trained, spec.evals, data, progress, features), folders.out)
    finally:
        torch.set_num_threads(before)
