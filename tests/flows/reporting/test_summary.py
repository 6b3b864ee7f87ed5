"""What a run's report says of trainings whose notes are not whole."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.plan import Planned
from flows.reporting.summary import UNTOLD, report_on
from tasks.build import BuildResult, Store
from tasks.request import TrainingEstimate
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import NANO

SUMMARY = {"seconds": 1.0, "samples_per_second": 2.0, "peak_memory_bytes": 3, "world_size": 4, "notices": []}


def reported(home, *stages, action="reuse", planned=()):
    """The report of a run that found the trainings of these stages in the store, or built them, and its page."""
    checkpoint = Artifact(kind="checkpoint", digest="c" * 64, path=home / "checkpoint")
    built = {
        f"{stage}/train": BuildResult(
            name=f"{stage}/train", key=stage, action=action, why="same", seconds=0.0, artifact=checkpoint
        )
        for stage in stages
    }
    environment = SimpleNamespace(
        run="r", home=home, report_folder=home / "runs" / "r", store=Store(home / "store"), options=NANO.options
    )
    report, _, path = report_on(SimpleNamespace(preset=NANO, environment=environment, planned=planned), built)
    assert json.loads(path.read_text()) == report
    return report, path.with_suffix(".html").read_text()


def tell(home: Path, stage: str, text: str) -> Path:
    path = home / "store" / "notes" / stage / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_how_many_processes_trained_is_what_they_told(tmp_path):
    tell(tmp_path, "stage2", json.dumps(SUMMARY))
    report, page = reported(tmp_path, "stage1", "stage2")
    assert report["world_size"] == 4 and "training processes</th><td>4</td>" in page
    assert report["stages"]["stage1"]["notices"] == [UNTOLD] and report["stages"]["stage2"]["notices"] == []


@pytest.mark.parametrize("stages", [(), ("stage1",)], ids=["nothing trained", "notes missing"])
def test_how_many_processes_trained_is_not_guessed(tmp_path, stages):
    report, page = reported(tmp_path, *stages)
    assert report["world_size"] is None and "training processes" not in page


def test_what_was_predicted_of_a_stage_is_told_if_it_was_built(tmp_path):
    """A stage whose input was to be built anew is planned, and yet reused where that gave the same bytes."""
    tell(tmp_path, "stage1", json.dumps(SUMMARY))
    taken = TrainingEstimate(seconds=9.0, memory_bytes=8.0, disk_bytes=7, by="last run", note="")
    planned = [Planned(step="stage1/train", action="build", why="new", artifact=None, estimate=taken)]
    built, _ = reported(tmp_path, "stage1", action="build", planned=planned)
    assert built["stages"]["stage1"]["predicted"] == {"seconds": 9.0, "memory_bytes": 8.0, "by": "last run"}
    reused, page = reported(tmp_path, "stage1", planned=planned)
    assert reused["stages"]["stage1"]["predicted"] is None and "<small>predicted" not in page


def test_a_damaged_summary_is_one_message_with_its_path(tmp_path):
    path = tell(tmp_path, "stage1", '{"seconds": 1')
    with pytest.raises(ConfigError, match=f"^{path} is damaged: "):
        reported(tmp_path, "stage1")
