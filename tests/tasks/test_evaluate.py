from dataclasses import replace

import pytest
import torch

from tasks.evaluate import EvaluationSpec, evaluate_checkpoint
from tasks.request import StepFolders
from tests.core.tiny_run import STAGE
from tests.tasks.registered import new_home
from tinygptv_core.compute import Compute
from tinygptv_core.plain import ConfigError

OPTIONS = Compute(device="cpu", threads=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return new_home(tmp_path_factory.mktemp("home"))


def spec(home, checkpoint, stage=STAGE):
    return EvaluationSpec(
        stage=stage,
        evals=("scenes_vqa",),
        backbones=home.backbones.path,
        checkpoint=checkpoint,
        data={"scenes_test": home.data},
        features=None,
    )


def written(spec, folder):
    """Every file that the evaluation writes, and how far it said that it was."""
    folders = StepFolders(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    folders.out.mkdir(parents=True)
    told = []
    evaluate_checkpoint(spec, OPTIONS, folders, lambda done, total, what: told.append((done, total, what)))
    return {path.name: path.read_bytes() for path in folders.out.iterdir()}, told


def test_two_evaluations_write_the_same_bytes(home, tmp_path):
    checkpoint = home.checkpoint(1).path
    files, told = written(spec(home, checkpoint), tmp_path / "a")
    assert files.keys() == {"scores.json", "answers.jsonl"}
    assert len(files["answers.jsonl"].splitlines()) == 4
    assert told[-1] == (8, 8, "scenes_vqa: questions answered")
    assert written(spec(home, checkpoint), tmp_path / "b") == (files, told)


def test_without_a_checkpoint_the_projections_are_those_that_the_stage_starts_from(home, tmp_path):
    fresh, _ = written(spec(home, None, replace(STAGE, seed=1)), tmp_path / "a")
    same, _ = written(spec(home, home.checkpoint(1).path), tmp_path / "b")
    assert fresh == same


def test_threads_are_as_they_were_afterwards(home, tmp_path):
    torch.set_num_threads(2)
    written(spec(home, None), tmp_path)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_a_checkpoint_of_another_stage_is_refused(home, tmp_path):
    with pytest.raises(ConfigError, match="is a checkpoint of tiny, not of other"):
        written(spec(home, home.checkpoint(1).path, replace(STAGE, name="other")), tmp_path)
