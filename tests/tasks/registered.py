"""A tiny model in a store and in an SQLite registry, as a run would leave them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tasks.build import Store
from tasks.register import REGISTER, ModelSpec, Registration, write_model
from tasks.registering.model_card import ModelCardFacts, TrainedOn
from tasks.request import SHORT, Request, Step, StepFolders
from tests.core.tiny_run import STAGE, picture, write_backbones, write_dataset
from tinygptv_core.answer import load_fresh
from tinygptv_core.artifact import Artifact
from tinygptv_core.checkpoint import write_checkpoint
from tinygptv_core.run import DataFolders
from tinygptv_core.trainable import trainable_parameters

TRAIN = Step(name="train", kind="checkpoint", version=1)
IMPORT = Step(name="import", kind="backbones", version=1)
NOTED = {"run": "r", "time": 0.0}
SCORES = {
    "scenes_vqa": {
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "control": {"value": 0.2, "low": 0.1, "high": 0.3}}
    }
}
FACTS = ModelCardFacts(
    name="tinygptv",
    data=(
        TrainedOn(
            name="shapes",
            stages=("tiny",),
            licence="CC0 | MIT",
            citation="nobody",
            rows=12_345,
            kept=12_000,
            dropped={"http_404": 300, "too_small": 45, "duplicate": 0},
        ),
    ),
    scores={"fresh": {}, "tiny": SCORES},
    sources={"tiny/train": "c" * 64, "shapes/filter": "d" * 64},
    init=None,
)


def sealed(store: Store, request: Request, inputs: Mapping[str, Artifact | None]) -> Artifact:
    """The request's artifact, built in `store`."""
    return store.build(request, inputs, {}, noted=NOTED, force=False, waiting=lambda text: None).artifact


@dataclass(frozen=True, kw_only=True)
class Home:
    """A store with backbones, test data, and what is made from them."""

    root: Path
    store: Store
    backbones: Artifact
    data: DataFolders

    @property
    def uri(self) -> str:
        """Its registry."""
        return f"sqlite:///{self.root}/mlflow/mlflow.db"

    def checkpoint(self, seed: int) -> Artifact:
        """A checkpoint of fresh projections drawn from `seed`."""

        def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
            model = load_fresh(inputs["backbones"].path, replace(STAGE, seed=seed), "cpu").model
            tensors = {name: value.detach() for name, value in trainable_parameters(model).items()}
            write_checkpoint(folders.out, tensors, STAGE)

        request = Request(
            name="tiny/train",
            step=TRAIN,
            config={"stage": replace(STAGE, seed=seed)},
            inputs={"backbones": "backbones/import"},
            work=work,
        )
        return sealed(self.store, request, {"backbones": self.backbones})

    def model(self, checkpoint: Artifact) -> Artifact:
        """The model artifact of `checkpoint`."""
        spec = ModelSpec(
            stage=STAGE,
            evaluation="scenes_vqa",
            backbones_name="tiny",
            backbones_digest=self.backbones.digest,
            checkpoint=checkpoint,
            data=self.data,
            facts=FACTS,
        )
        request = Request(
            name="register",
            step=REGISTER,
            config={},
            inputs={"checkpoint": "tiny/train"},
            work=lambda inputs, folders: write_model(spec, folders),
        )
        return sealed(self.store, request, {"checkpoint": checkpoint})

    def registration(self, checkpoint: Artifact, uri: str) -> Registration:
        """How the model of `checkpoint` is registered at `uri`."""
        return Registration(
            tracking_uri=uri,
            artifacts=self.root / "mlflow" / "artifacts",
            experiment="tinygptv",
            parent_run=None,
            name="tinygptv",
            stage=STAGE.name,
            checkpoint_digest=checkpoint.digest,
            backbones=self.backbones.path,
            bundle=False,
            sources={"tiny/train": checkpoint.digest},
            scores=SCORES,
        )


def new_home(root: Path) -> Home:
    """A home with tiny backbones and four questions about pictures."""
    torch.set_num_threads(1)
    made = write_backbones(root / "made")

    def copy(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        shutil.copytree(made, folders.out, dirs_exist_ok=True)

    samples = [
        {
            "key": f"{number:09d}",
            "turns": [["user", f"what is {number}?"], ["assistant", "red"]],
            "picture": picture(number),
            "split": "vqa",
            "group": "colour",
        }
        for number in range(4)
    ]
    store = Store(root / "store")
    request = Request(
        name="backbones/import",
        step=IMPORT,
        config={},
        inputs={},
        work=copy,
    )
    backbones = sealed(store, request, {})
    assert backbones.path.name == backbones.digest[:SHORT]
    return Home(root=root, store=store, backbones=backbones, data=write_dataset(root / "data", samples, per_shard=2))
