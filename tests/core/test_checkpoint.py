from dataclasses import replace

import pytest
import torch

from tests.core.tiny_run import STAGE
from tinygptv_core.checkpoint import read_checkpoint, write_checkpoint
from tinygptv_core.plain import ConfigError

TENSORS = {"b": torch.arange(4.0), "a": torch.ones(2, 3).T}


def test_a_checkpoint_reads_back_as_it_was_written(tmp_path):
    write_checkpoint(tmp_path, TENSORS, STAGE)
    read = read_checkpoint(tmp_path)
    assert (read.form.name, read.form.image_size, read.form.lora, read.form.asks) == (
        "tiny",
        8,
        STAGE.lora,
        "Q: {} A: ",
    )
    assert {name: tensor.tolist() for name, tensor in read.tensors.items()} == {
        "a": [[1, 1], [1, 1], [1, 1]],
        "b": [0, 1, 2, 3],
    }


def test_a_checkpoint_holds_nothing_that_altered_no_weight(tmp_path):
    """Another order of the tensors, and another rate that gave the same weights: the same bytes."""
    write_checkpoint(tmp_path / "one", TENSORS, STAGE)
    hotter = replace(STAGE, schedule=replace(STAGE.schedule, peak=0.5), clip_norm=None)
    write_checkpoint(tmp_path / "two", dict(reversed(TENSORS.items())), hotter)
    for name in ("trainable.safetensors", "stage.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_folder_without_a_checkpoint_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no checkpoint: there is no stage\.json"):
        read_checkpoint(tmp_path)


def test_a_damaged_checkpoint_is_told(tmp_path):
    write_checkpoint(tmp_path, TENSORS, STAGE)
    weights = tmp_path / "trainable.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="is damaged"):
        read_checkpoint(tmp_path)
