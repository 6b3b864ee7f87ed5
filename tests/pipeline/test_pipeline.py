"""The promise of the project on its smallest preset: from URLs to a registered model, and again."""

import ipaddress
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

STAGES = ("stage1", "stage2", "stage3", "stage4")
CONTRACT = {"run", "preset", "world_size", "steps", "data", "stages", "scores", "model"}


def actions(report):
    return {step["step"]: step["action"] for step in report["steps"]}


def artifacts(report):
    return {step["step"]: step["artifact"] for step in report["steps"]}


def margin(scores, name, metric):
    score = scores[name][metric]
    return score["value"] - score["control"]["value"]


def test_the_report_has_what_is_promised(report):
    assert set(report) >= CONTRACT and set(report["stages"]) == set(STAGES)
    assert report["world_size"] == 2 and report["preset"] == "nano"
    assert set(actions(report).values()) == {"build"}


def test_every_row_is_kept_or_dropped_with_a_reason(report):
    for counts in report["data"].values():
        assert counts["rows"] == counts["kept"] + sum(counts["dropped"].values()) > 0
    assert report["data"]["scenes_web"]["dropped"]["http_404"] > 0


def test_it_has_learned_to_see(report):
    scores = report["scores"]
    vqa = scores["scenes_vqa"]["accuracy"]
    assert margin(scores, "scenes_vqa", "accuracy") >= 0.30 and vqa["low"] > vqa["control"]["high"]
    assert margin(scores, "scenes_refer", "iou50") >= 0.25
    assert margin(scores, "scenes_vqa_unseen", "accuracy") >= 0.25
    assert scores == report["stages"]["stage4"]["scores"]


def test_before_stage_1_it_saw_nothing(report):
    assert abs(margin(report["fresh"]["scores"], "scenes_vqa", "accuracy")) <= 0.05


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ends_as_is_expected_of_it_without_a_warning(report, stage):
    told = report["stages"][stage]
    assert (told["expected"]["verdict"], told["warnings"]) == ("within", [])
    assert (told["predicted"]["by"], told["predicted"]["seconds"]) == ("arithmetic", None)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ends_at_a_lower_loss(report, stage):
    assert report["stages"][stage]["loss_last"] < report["stages"][stage]["loss_first"]


@pytest.fixture(scope="module")
def again(home, report):
    """The report of the same command again."""
    return home.report()


def test_the_same_command_again_reuses_everything(report, again):
    assert set(actions(again).values()) == {"reuse"} and artifacts(again) == artifacts(report)
    assert again["model"] == report["model"] and again["scores"] == report["scores"]


def test_reused_steps_are_visibly_reused_in_prefect(home, report, again):
    database = sqlite3.connect(home.path / "prefect" / "prefect.db")
    newest = database.execute("SELECT id FROM flow_run ORDER BY created DESC LIMIT 1").fetchone()
    states = database.execute("SELECT state_name FROM task_run WHERE flow_run_id = ?", newest).fetchall()
    anew = [("Completed",)] * 2  # the promotion and the report, whatever was reused
    assert sorted(states) == [*anew, *[("Reused",)] * len(report["steps"])]


def test_a_plan_says_what_another_rate_builds_and_why(home, report):
    plan = home.plan("--set", "stage3.schedule.peak=2e-5")
    builds = [step for step, item in plan.items() if item["action"] == "build"]
    assert builds == ["stage3/train", "stage3/evaluate", "stage4/train", "stage4/evaluate", "register"]
    assert plan["stage3/train"]["why"] == "config.stage.schedule.peak 0.002 -> 2e-05"


def test_a_run_builds_what_its_plan_says_and_no_more(home, report):
    """A change that trains nothing; `test_list.py` has one that does, since one of stage 3 takes minutes."""
    change = ("--set", 'stage4.evals=["scenes_refer"]')
    plan = {step: item["action"] for step, item in home.plan(*change).items()}
    changed = home.report(*change)
    assert actions(changed) == plan
    assert [step for step, action in plan.items() if action == "build"] == ["stage4/evaluate", "register"]
    assert changed["scores"].keys() == {"scenes_refer"} < report["scores"].keys()
    assert changed["model"]["version"] != report["model"]["version"]


def test_the_registered_model_answers_in_a_fresh_process(home, report):
    picture = next((home.path / "store" / "source").glob("*/images/*.jpg"))
    code = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]); "
        "model = mlflow.pyfunc.load_model('models:/tinygptv@champion'); "
        "print(model.predict([{'image': sys.argv[2], 'question': 'how many shapes are there?'}]))"
    )
    uri = f"sqlite:///{home.path}/mlflow/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", code, uri, str(picture)], env=home.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
    answer, _ = home.run("ask", "models:/tinygptv@champion", str(picture), "how many shapes are there?")
    assert answer.strip() in {"one", "two", "three", "four", "1", "2", "3", "4"}


def test_the_card_of_the_version_counts_rows_as_the_report_does(home, report):
    (step,) = (step for step in report["steps"] if step["step"] == "register")
    card = (home.path / "store" / "model" / step["artifact"][:12] / "card.md").read_text()
    table = card.partition("## Trained on")[2].partition("## Limits")[0]
    lines = [line for line in table.splitlines() if line.startswith("| scenes_")]
    told = {name: (rows, kept) for name, _, _, rows, kept, *_ in (line.split(" | ") for line in lines)}
    counts = {f"| {name}": (f"{of['rows']:,}", f"{of['kept']:,}") for name, of in report["data"].items()}
    assert told == {name: of for name, of in counts.items() if name != "| scenes_test"}  # which nothing trains on


def test_nothing_left_loopback(home, report):
    tried = [(event, target) for event, target in home.connections() if not isinstance(target, (bytes, type(None)))]
    connected = [target[0] for event, target in tried if event == "socket.connect" and isinstance(target, tuple)]
    looked_up = {target for event, target in tried if event != "socket.connect"}
    assert connected and all(ipaddress.ip_address(address).is_loopback for address in connected)
    names = {name for name in looked_up if not name.startswith("127.")}
    assert names <= {"localhost", "::1", "0.0.0.0", socket.gethostname()}


def test_nothing_is_written_to_the_users_own_home(home, report):
    assert not home.users.exists()


def test_a_sealed_artifact_holds_what_its_digest_says(home, report):
    import hashlib

    for step in report["steps"]:
        found = [p for p in (home.path / "store").glob(f"*/{step['artifact'][:12]}/manifest.json")]
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in found] == [step["artifact"]]
        assert Path(found[0]).stat().st_size > 2
