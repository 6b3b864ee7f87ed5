"""Published weights, in the layouts of their files: imported, evaluated, trained on, registered."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
GOLDENS = HERE.parent / "goldens"
PRESET = ("--preset", f"{HERE / 'published_preset.py'}:TOY")


def saved(value, path):
    torch.save(value, path)
    return path


@pytest.fixture
def files(tmp_path):
    """What a person downloads, at toy size: options that name it, and stage 3's checkpoint."""
    eva = saved(load_file(GOLDENS / "weights" / "eva_vit_g.safetensors"), tmp_path / "eva_vit_g.pth")
    blip2 = saved({"model": load_file(GOLDENS / "weights" / "blip2_qformer.safetensors")}, tmp_path / "blip2.pth")
    trained = load_file(GOLDENS / "checkpoints" / "stage3.safetensors")
    whole = {"model": trained, "optimizer": {}, "config": {}, "scaler": {}, "epoch": 4}
    paths = {"vision": eva, "qformer": blip2, "llm": GOLDENS / "weights" / "phi_base"}
    options = [f"--set=backbones.sources.{role}.path={path}" for role, path in paths.items()]
    return options, saved(whole, tmp_path / "TinyGPT-V_for_Stage3.pth")


def test_a_run_begins_with_a_published_checkpoint_and_ends_with_a_registered_model(used_home, files):
    options, checkpoint = files
    told, _ = used_home.run("weights", "import", "checkpoint", str(checkpoint), "--stage", "stage3", *PRESET)
    digest = re.search(r"^checkpoint ([0-9a-f]{64})$", told, re.M)[1]
    # One process: that two end where one does is shown where engines are (`tests/tasks/test_zero.py`).
    report = used_home.report(*PRESET, *options, "--init", f"stage3={digest[:12]}", "--option", "processes=1")
    steps = {item["step"]: item["artifact"] for item in report["steps"]}
    assert {"stage3/evaluate", "stage4/train", "stage4/evaluate", "register"} <= steps.keys()
    # It was trained elsewhere, on what we do not know: no data of its own, no training, no fresh projections.
    assert not {"scenes_web/rows", "scenes_detail/rows", "stage3/train", "fresh/evaluate"} & steps.keys()
    assert report["model"]["version"] == "1" and report["model"]["checkpoint_digest"] == steps["stage4/train"]
    assert report["stages"].keys() == {"stage4"}
    assert report["fresh"] is None and report["init"]["stage"] == "stage3" and report["init"]["scores"]
