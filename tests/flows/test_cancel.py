"""A run that is cancelled in Prefect's interface while stage 2 trains: some minutes."""

import json
import sys
import time

import pytest

from flows.serving.ending import runs_on
from tests.flows.servers import Servers

pytestmark = pytest.mark.long

PICTURES = {"pretraining_pictures": 400, "instruction_pictures": 200, "held_out_pictures": 40}
STAGE2 = {
    "first": "stage2",
    "last": "stage2",
    "changes": {
        "stage1": {"steps": 10, "warmup_steps": 2},
        "stage2": {"steps": 300},
        "evaluations": ["scenes_vqa"],
        "settings": [f"scenes.{name}={number}" for name, number in PICTURES.items()],
    },
}
MOST_SECONDS = 60
"""On a machine that others use, too; on one that is free it takes less than 15."""


@pytest.fixture
def up(tmp_path):
    servers = Servers(tmp_path / "home")
    try:
        servers.wait_until_up()
        yield servers
    finally:
        servers.end()


def test_a_run_cancelled_in_stage_2_saves_leaves_no_process_and_ends_as_an_undisturbed_one_when_started_again(
    up, capsys
):
    cancelled = up.start("stages", STAGE2)[1]
    up.wait_until(lambda: up.ended(cancelled) or trains_stage2(up.home))
    seconds = seconds_to_cancel(up, cancelled)
    with capsys.disabled():
        sys.stdout.write(f"\nno process of the run after {seconds:.1f} s\n")
    assert up.wait_until(lambda: up.ended(cancelled))["type"] == "CANCELLED"
    assert set(records(up.home)) == {"stage1/train"}

    assert ended(up, STAGE2)["type"] == "COMPLETED"
    went_on = records(up.home)["stage2/train"]
    assert 0 < resumed_from(up.home) < 300

    assert ended(up, {**STAGE2, "anew": True})["type"] == "COMPLETED"
    undisturbed = records(up.home)["stage2/train"]
    assert resumed_from(up.home) == 0
    assert (went_on["digest"], went_on["others"]) == (undisturbed["digest"], undisturbed["others"])
    assert seconds < MOST_SECONDS


def trains_stage2(home):
    """Stage 1 is there, and the other stage tells of steps."""
    done = [path.stem for path in home.glob("store/keys/train/*.json")]
    return done and any(path.read_text() for path in curves(home) if path.parent.name not in done)


def seconds_to_cancel(up, run):
    """From *Cancel* until no process of the run is there."""
    began = time.monotonic()
    asked = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    assert up.ask(f"flow_runs/{run['id']}/set_state", asked)[1]["status"] == "ACCEPT"
    up.wait_until(lambda: not runs_on(up.home))
    return time.monotonic() - began


def ended(up, parameters):
    run = up.start("stages", parameters)[1]
    return up.wait_until(lambda: up.ended(run))


def records(home):
    """A training step's name -> what is noted of it."""
    return {found["name"]: found for found in map(read, home.glob("store/keys/train/*.json"))}


def resumed_from(home):
    """The step that stage 2 went on from when it was last trained."""
    (key,) = [path.stem for path in home.glob("store/keys/train/*.json") if read(path)["name"] == "stage2/train"]
    return read(home / "store" / "notes" / key / "summary.json")["resumed_from_step"]


def curves(home):
    return home.glob("store/notes/*/metrics.jsonl")


def read(path):
    return json.loads(path.read_text())
