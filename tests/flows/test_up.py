"""`tinygptv up` as a person has it: started once, for all tests of this file."""

import os
import signal

import psutil
import pytest

from flows.up import UpOptions, run_up, up_on, use_up
from tests.flows.servers import Servers
from tests.ports import kept_port
from tinygptv_core.plain import ConfigError


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    servers = Servers(tmp_path_factory.mktemp("up") / "home")
    try:
        servers.wait_until_up()
        yield servers
    finally:
        servers.end()


def test_both_addresses_are_printed_and_every_deployment_is_there(up):
    said = up.said.read_text()
    assert f"http://127.0.0.1:{up.ports[0]}/deployments" in said
    assert f"http://127.0.0.1:{up.ports[1]}/#/models" in said
    names = {found["name"] for found in up.ask("deployments/filter", {})[1]}
    assert names == {"pipeline", "data", "stages", "evaluation", "registration", "backbones"}


@pytest.mark.parametrize(
    ("deployment", "parameters", "reason"),
    [
        ("pipeline", {"presett": "nano"}, "'presett' was unexpected"),
        ("pipeline", {"preset": "my_run.py:MINE"}, "'my_run.py:MINE' is not one of"),
        ("pipeline", {"start_from": "stage7"}, "'stage7' is not one of"),
        ("pipeline", {"changes": {"stage3": {"peek_rate": 1e-5}}}, "'peek_rate' was unexpected"),
        ("stages", {"changes": {"stage3": {"peak_rate": 2}}}, "'changes.stage3.peak_rate'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_reason_before_a_run_exists(up, deployment, parameters, reason):
    status, answer = up.start(deployment, parameters)
    assert status == 409
    assert reason in answer["detail"]
    assert not up.ask("flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}})[1]


def test_a_run_that_is_started_there_builds_and_a_mistake_that_only_the_run_can_see_is_its_message(up):
    built = up.start("backbones", {})[1]
    wrong = up.start("data", {"dataset": "laion"})[1]
    assert up.wait_until(lambda: up.ended(built))["type"] == "COMPLETED"
    state = up.wait_until(lambda: up.ended(wrong))
    assert state["type"] == "FAILED"
    assert state["message"].startswith("the preset nano reads no data set laion. It reads: scenes_web, ")
    assert len(list((up.home / "store" / "backbones").iterdir())) == 1


def test_who_wants_to_know_is_told_how_runs_ended(up):
    titles = up.wait_until(lambda: len(up.told) >= 2 and {note["title"].split()[-1] for note in up.told})
    assert titles == {"Completed", "Failed"}
    assert any("reads no data set laion" in note["message"] for note in up.told)


def test_a_command_on_that_home_tells_these_servers(up, monkeypatch):
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert use_up(up.home)
    assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:{up.ports[0]}/api"
    assert os.environ["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{up.ports[1]}"


def options(home, ports):
    databases = {"prefect_database": None, "mlflow_database": None}
    return UpOptions(home=home, port=ports[0], mlflow_port=ports[1], runs=1, trainings=1, notify=None, **databases)


def test_a_second_one_on_that_home_and_a_port_that_is_taken_are_refused(up, tmp_path):
    with pytest.raises(ConfigError, match=f"is up already, by process {up.process.pid}"):
        run_up(options(up.home, (kept_port(), kept_port())))
    with pytest.raises(ConfigError, match=rf"--port {up.ports[0]}: the port is taken by process \d+ "):
        run_up(options(tmp_path, up.ports))
    assert up_on(tmp_path) is None


def test_a_worker_that_dies_is_started_again_and_at_the_end_nothing_is_left(up):
    (worker,) = [one for one in psutil.Process(up.process.pid).children() if "worker" in one.cmdline()]
    worker.kill()
    up.wait_until(lambda: "the worker ended with status -9; it is started again" in up.said.read_text())
    tree = psutil.Process(up.process.pid).children(recursive=True)
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    assert not [one for one in tree if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not (up.home / "up.json").exists()
