"""A training that is cancelled in Prefect's interface: two minutes."""

import json
import time

import pytest

from flows.ending import runs_on
from tests.flows.servers import Servers

pytestmark = pytest.mark.long

SMALL = [f"scenes.{name}=400" for name in ("pretraining_pictures", "instruction_pictures")]
TRAINING = {
    "first": "stage1",
    "last": "stage1",
    "changes": {"stage1": {"steps": 300}, "evaluations": ["scenes_vqa"], "settings": SMALL},
}
GOAL_SECONDS = 15


@pytest.fixture
def up(tmp_path):
    servers = Servers(tmp_path / "home")
    try:
        servers.wait_until_up()
        yield servers
    finally:
        servers.end()


def test_a_training_that_is_cancelled_saves_leaves_no_process_and_goes_on_when_started_again(up):
    cancelled = up.start("stages", TRAINING)[1]
    up.wait_until(lambda: up.ended(cancelled) or any(path.read_text() for path in up.home.rglob("metrics.jsonl")))
    began = time.monotonic()
    asked = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    assert up.ask(f"flow_runs/{cancelled['id']}/set_state", asked)[1]["status"] == "ACCEPT"
    up.wait_until(lambda: not runs_on(up.home))
    seconds = time.monotonic() - began
    assert up.wait_until(lambda: up.ended(cancelled))["type"] == "CANCELLED"
    assert not list(up.home.rglob("summary.json"))
    again = up.start("stages", TRAINING)[1]
    state = up.wait_until(lambda: up.ended(again))
    assert state["type"] == "COMPLETED", state
    (summary,) = (json.loads(path.read_text()) for path in up.home.rglob("summary.json"))
    assert summary["resumed_from_step"] > 0
    assert seconds < GOAL_SECONDS
