"""backbones + checkpoint + scores -> a model's folder, and a version of it in the MLflow registry.

The folder is the artifact: deterministic, and all that answering needs but for the frozen backbones, which
are referred to by digest. The version in the registry is made from it; its tags are the digests of
everything that it came from.
"""

import base64
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from tasks.lease import myself
from tasks.registering.mlflow_database import make_database
from tasks.registering.model_card import ModelCardFacts, card_text, description
from tasks.registering.registry import (
    BACKBONES_TAG,
    BUNDLE_TAG,
    CHECKPOINT_TAG,
    MODEL_TAG,
    PROCESS_TAG,
    SQLITE,
    Version,
    registered,
)
from tasks.request import Step, StepFolders
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import canonical_json
from tinygptv_core.run import DataFolders
from tinygptv_core.stage import Stage

REGISTER = Step(name="register", kind="model", version=4)

CHALLENGER, CHAMPION = "challenger", "champion"
CARD = "card.md"
"""The model's card in its folder."""

REQUIREMENTS = ("tinygptv", "torch", "transformers", "peft", "numpy", "pillow", "safetensors", "pandas")
"""What a served model imports; each is pinned to the version that it was registered with."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model's folder is made from.

    Attributes:
        evaluation: whose prompt goes around a person's question, if it has a place for one; an example is taken from
            its `data`.
        backbones_name: the folder of the shipped copy, if there is one.
    """

    stage: Stage
    evaluation: str
    backbones_name: str
    backbones_digest: str
    checkpoint: Artifact
    data: DataFolders
    facts: ModelCardFacts


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What is written into the registry beside the model's files.

    Attributes:
        artifacts: where the files of an SQLite registry's experiment go; a server decides for itself.
        parent_run: the MLflow run that this belongs to.
        backbones: where they lie now; looked at first when the model is loaded.
        bundle: put a copy of them among the version's files, so that it needs no other place.
        sources: a name such as `stage3/train` -> the digest of that artifact. Become tags.
        scores: what scores.json of the final evaluation holds. Become metrics.
    """

    tracking_uri: str
    artifacts: Path
    experiment: str
    parent_run: str | None
    name: str
    stage: str
    checkpoint_digest: str
    backbones: Path
    bundle: bool
    sources: Mapping[str, str]
    scores: Mapping[str, Any]


def write_model(spec: ModelSpec, folders: StepFolders) -> None:
    """Write the **model** artifact: the checkpoint, `model.json`, `example.json` and `card.md`.

    Raises:
        ConfigError: no such evaluation.
        ValueError: its data hold nothing that it asks about a picture, to show as an example.
    """
    from tinygptv_core.answer import ModelCard

    evaluation = evals.load(spec.evaluation)
    card = ModelCard(
        backbones=spec.backbones_name,
        backbones_digest=spec.backbones_digest,
        checkpoint_digest=spec.checkpoint.digest,
        prompt=evaluation.prompt if evaluation.has_questions else "{}",
        max_new_tokens=evaluation.max_new_tokens,
        precision=spec.stage.precision,
    )
    for name in ("trainable.safetensors", "stage.json"):
        shutil.copyfile(spec.checkpoint.path / name, folders.out / name)
    (folders.out / "model.json").write_text(canonical_json(card) + "\n")
    (folders.out / "example.json").write_text(json.dumps(_example(spec, evaluation)) + "\n")
    (folders.out / CARD).write_text(card_text(spec.facts, spec.stage, card), encoding="utf-8")


def _example(spec: ModelSpec, evaluation: evals.Eval) -> dict[str, str]:
    from tinygptv_core.shards import ShardSet

    samples = ShardSet(spec.data)
    for position in range(len(samples)):
        sample = samples[position]
        own = [turn.text for turn in sample.turns if turn.role == "user"]
        asked = own if evaluation.has_questions else [evaluation.prompt]
        if evaluation.split in (None, sample.split) and sample.picture and asked:
            return {"image": base64.b64encode(sample.picture).decode(), "question": asked[0]}
    raise ValueError(f"{spec.data.shards} holds nothing to ask about a picture of split {evaluation.split}")


def register_version(model: Artifact, registration: Registration) -> Version:
    """The registry's version of `model`: the one that is there, with its backbones if they are wanted, or a new one.

    It gets the alias `challenger` and its stage's name; a version that was there gets the tags and metrics of
    this registration. Sets MLflow's tracking URI for as long as it works.

    Raises:
        ConfigError: the registry cannot be read.
    """
    found = registered(registration.tracking_uri, registration.name, model.digest, bundled=registration.bundle)
    tags = _tags(model, registration)
    if found and tags.items() <= found.tags.items() and {CHALLENGER, registration.stage} <= set(found.aliases):
        return found
    with mlflow_at(registration.tracking_uri) as mlflow:
        client = mlflow.MlflowClient(registration.tracking_uri, registration.tracking_uri)
        if found is None:
            made = _new_version(mlflow, client, model, registration, tags)
        else:
            made = client.get_model_version(registration.name, found.version)
            for key, value in tags.items():
                client.set_model_version_tag(registration.name, made.version, key, value)
        mlflow.log_metrics(metrics_of(registration.scores), run_id=made.run_id, model_id=made.model_id)
        _set_aliases(client, registration, str(made.version))
    return _there(registration, model.digest)


def _there(registration: Registration, digest: str) -> Version:
    found = registered(registration.tracking_uri, registration.name, digest, bundled=registration.bundle)
    if found is None:
        raise RuntimeError(f"{registration.name} was registered at {registration.tracking_uri} but is not there")
    return found


def _tags(model: Artifact, registration: Registration) -> dict[str, str]:
    return {
        MODEL_TAG: model.digest,
        CHECKPOINT_TAG: registration.checkpoint_digest,
        BACKBONES_TAG: str(registration.backbones),
        **({BUNDLE_TAG: "true"} if registration.bundle else {}),
        **{f"tinygptv.{name}": digest for name, digest in sorted(registration.sources.items())},
    }


def metrics_of(scores: Mapping[str, Any]) -> dict[str, float]:
    """scores.json as MLflow's flat metrics: `scenes_vqa.accuracy`, `.low`, `.high`, `.control`."""
    metrics: dict[str, float] = {}
    for evaluation, of in scores.items():
        for metric, score in of.items():
            name = f"{evaluation}.{metric}"
            metrics |= {name: score["value"], f"{name}.low": score["low"], f"{name}.high": score["high"]}
            if score["control"]:
                metrics[f"{name}.control"] = score["control"]["value"]
    return metrics


def _new_version(mlflow: Any, client: Any, model: Artifact, registration: Registration, tags: Mapping[str, str]) -> Any:
    """Log the model's files and make a version of them, as MLflow has it. The version comes last, with all its tags."""
    _create_model(mlflow, client, registration.name)
    experiment = experiment_id(client, registration.experiment, registration.tracking_uri, registration.artifacts)
    parent = {"mlflow.parentRunId": registration.parent_run} if registration.parent_run else {}
    run_tags = {**parent, **process_tag()}
    bundled = {"backbones": str(registration.backbones)} if registration.bundle else {}
    card = (model.path / CARD).read_text(encoding="utf-8")
    with mlflow.start_run(
        experiment_id=experiment, run_name=f"register {registration.name}", nested=True, tags=run_tags
    ) as run:
        info = mlflow.pyfunc.log_model(
            name=registration.name,
            python_model=str(Path(__file__).with_name("registering") / "served_model.py"),
            artifacts={"model": str(model.path), **bundled},
            model_config={"backbones": str(registration.backbones)},
            signature=_signature(),
            input_example=[json.loads((model.path / "example.json").read_text())],
            pip_requirements=[f"{name}=={version_of(name).partition('+')[0]}" for name in REQUIREMENTS],
        )
        return client.create_model_version(
            registration.name,
            info.model_uri,
            run_id=run.info.run_id,
            tags=dict(tags),
            description=description(card),
            model_id=info.model_id,
        )


def _create_model(mlflow: Any, client: Any, name: str) -> None:
    try:
        client.create_registered_model(name)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def experiment_id(client: Any, name: str, tracking_uri: str, artifacts: Path) -> str:
    """The id of the experiment `name`, made when there is none; a server chooses the place of its files itself."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    place = artifacts.resolve().as_uri() if tracking_uri.startswith(SQLITE) else None
    return client.create_experiment(name, artifact_location=place)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    # Any: bytes from Python, base64 text from JSON, or a path. What comes is checked in served_model.py.
    inputs = Schema([ColSpec(AnyType(), "image"), ColSpec(DataType.string, "question")])
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(DataType.string, "answer")]))


def _set_aliases(client: Any, registration: Registration, number: str) -> None:
    client.set_registered_model_alias(registration.name, CHALLENGER, number)
    client.set_registered_model_alias(registration.name, registration.stage, number)


def process_tag() -> dict[str, str]:
    """The tag of a run that this process opens."""
    return {PROCESS_TAG: json.dumps(asdict(myself()))}


def import_mlflow() -> Any:
    """MLflow, without telemetry and without chatter: settings that it reads when it is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.pyfunc

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return mlflow


@contextmanager
def mlflow_at(tracking_uri: str) -> Iterator[Any]:
    """MLflow on that registry."""
    mlflow = import_mlflow()
    make_database(tracking_uri)
    # What is set is inherited by child processes, so what was not set must be unset again.
    before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield mlflow
    finally:
        mlflow.set_tracking_uri(before)
