import json
import logging
import signal
import socket
import subprocess
import sys
import time

import pytest

from tasks.track import DataUsed, Tracking, log_folder, repeating, run_address, tracked_run, tracking_stage
from tinygptv_core.training.metrics import MetricsFile

PARAMETERS = {"schedule": {"peak": 0.003, "steps": 4}, "lora": None}
SUMMARY = {"steps": 4, "loss_first": 5.5, "loss_last": 4.0, "seconds": 2.0, "peak_memory_bytes": 1000}


def line(step: int, gradient_norm: float | None = 0.5) -> dict[str, float | None]:
    return {
        "step": step,
        "loss": 5.0 - step / 4,
        "rate": 0.001 * step,
        "gradient_norm": gradient_norm,
        "samples_per_second": 100.0,
        "memory_bytes": 1000,
        "seconds": 0.5 * step,
        "losses": {"scenes_vqa": 1.0 + step},
        "step_seconds": {"data": 0.25, "forward": 0.5},
        "warnings": ["it is about to rain"],
    }


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return Tracking(
        uri=f"sqlite:///{home / 'mlflow' / 'mlflow.db'}", experiment="tiny", artifacts=home / "mlflow" / "artifacts"
    )


@pytest.fixture(scope="module")
def client(tracking):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.uri)


def logged(client, run_id, name):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_stage_is_logged_while_it_runs_each_step_once_and_summed_up(tracking, client, tmp_path):
    with (
        tracked_run(tracking, "whole", {}, parent=None) as parent,
        tracking_stage(tracking, "stage1", PARAMETERS, tmp_path, parent) as run_id,
    ):
        metrics = MetricsFile(tmp_path / "metrics.jsonl", after_step=0)
        for step in (1, 2):
            metrics.write(line(step))
        wait_for(lambda: len(logged(client, run_id, "loss")) == 2)
        assert client.get_run(run_id).info.status == "RUNNING"
        resumed = MetricsFile(tmp_path / "metrics.jsonl", after_step=1)
        resumed.write(line(2))
        resumed.write(line(3, gradient_norm=None))
        resumed.write(line(4))
        (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    assert logged(client, run_id, "loss") == [(1, 4.75), (2, 4.5), (3, 4.25), (4, 4.0)]
    assert [step for step, _ in logged(client, run_id, "gradient_norm")] == [1, 2, 4]
    assert logged(client, run_id, "loss/scenes_vqa") == [(1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)]
    assert logged(client, run_id, "seconds/data") == [(step, 0.25) for step in (1, 2, 3, 4)]
    assert logged(client, run_id, "loss_last") == [(4, 4.0)]
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "stage1")
    assert run.data.params == {"schedule.peak": "0.003", "schedule.steps": "4", "lora": "null"}
    assert run.data.tags["mlflow.parentRunId"] == parent


def test_a_stage_that_fails_is_marked_as_failed(tracking, client, tmp_path):
    with pytest.raises(FloatingPointError), tracking_stage(tracking, "stage1", {}, tmp_path, None) as run_id:
        raise FloatingPointError
    assert client.get_run(run_id).info.status == "FAILED"


LEFT_OPEN = """
import json, os, sys
from pathlib import Path
from tasks.track import Tracking, tracked_run
uri, artifacts = sys.argv[1:]
with tracked_run(Tracking(uri=uri, experiment="tiny", artifacts=Path(artifacts)), "killed", {}, None) as run_id:
    print(run_id, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_left_open_is_closed_by_the_next_and_what_goes_on_is_not(tracking, client, tmp_path):
    command = [sys.executable, "-c", LEFT_OPEN, tracking.uri, str(tracking.artifacts)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    killed = done.stdout.strip()
    assert client.get_run(killed).info.status == "RUNNING"
    with tracked_run(tracking, "beside", {}, None) as first, tracked_run(tracking, "next", {}, None):
        assert client.get_run(killed).info.status == "KILLED"
        assert client.get_run(first).info.status == "RUNNING"


def test_a_stage_that_goes_on_has_the_whole_curve(tracking, client, tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl", after_step=0).write(line(1))
    with tracking_stage(tracking, "stage1", {}, tmp_path, None) as run_id:
        MetricsFile(tmp_path / "metrics.jsonl", after_step=1).write(line(2))
    assert [step for step, _ in logged(client, run_id, "loss")] == [1, 2]


def test_files_of_a_database_go_where_they_are_told(tracking, client):
    with tracked_run(tracking, "whole", {}, None) as run_id:
        assert run_id is not None
    assert client.get_run(run_id).info.artifact_uri.startswith(tracking.artifacts.as_uri())


def test_a_server_that_is_away_is_one_warning_and_the_stage_goes_on(tmp_path, caplog):
    with socket.socket() as free:  # bound and not listening: a connection is refused
        free.bind(("127.0.0.1", 0))
        away = Tracking(
            uri=f"http://127.0.0.1:{free.getsockname()[1]}", experiment="tiny", artifacts=tmp_path / "artifacts"
        )
        with caplog.at_level(logging.WARNING), tracking_stage(away, "stage1", {}, tmp_path, None) as run_id:
            MetricsFile(tmp_path / "metrics.jsonl", after_step=0).write(line(1))
    assert run_id is None
    assert len([record for record in caplog.records if "does not take the metrics" in record.message]) == 1


def test_what_is_repeated_is_called_once_more_at_the_end():
    calls = []
    with repeating(lambda: calls.append(len(calls)), seconds=60):
        assert calls == []
    assert calls == [0]


USED = DataUsed(
    name="scenes_web",
    artifacts={"shards.scenes_web": "a" * 64, "index.scenes_web": "b" * 64},
    counts={"fetch": {"rows": 10, "kept": 9, "dropped": {"http_404": 1}}},
    about={"source": "lists/scenes_web.json", "licence": "CC0"},
)


def test_a_stage_says_on_which_data_it_was_trained_and_copies_nothing(tracking, client, tmp_path):
    with tracking_stage(tracking, "stage1", {}, tmp_path, None, (USED,)) as run_id:
        pass
    (told,) = client.get_run(run_id).inputs.dataset_inputs
    assert told.dataset.name == "scenes_web" and len(told.dataset.digest) == 36
    assert json.loads(told.dataset.source) == {**USED.about, "artifacts": USED.artifacts}
    assert json.loads(told.dataset.profile) == USED.counts
    assert [(tag.key, tag.value) for tag in told.tags] == [("mlflow.data.context", "training")]
    assert client.list_artifacts(run_id) == []


def test_parameters_are_cut_to_what_every_server_takes_and_may_be_many(tracking, client):
    many = {f"p{number}": number for number in range(250)}
    with tracked_run(tracking, "whole", {"long": "x" * 7000, "n" * 300: 1, **many}, None) as run_id:
        pass
    told = client.get_run(run_id).data.params
    assert len(told) == 252 and told["p249"] == "249"
    assert told["long"] == "x" * 497 + "..." and told["n" * 250] == "1"


def test_the_report_lies_among_the_files_of_its_run(tracking, client, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("report.html", "report.json", "data/scenes_web.html"):
        (tmp_path / name).write_text(name)
    with tracked_run(tracking, "whole", {}, None) as run_id:
        pass
    log_folder(tracking, run_id, tmp_path)
    assert {item.path for item in client.list_artifacts(run_id)} == {"report.html", "report.json", "data"}
    assert client.get_run(run_id).info.status == "FINISHED"
    assert run_address(tracking, run_id) is None  # no page shows a database by itself
