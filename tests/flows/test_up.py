"""`tinygptv up` as a person has it: started once, for all tests of this file."""

import os
import socket
import urllib.error
import urllib.request
from contextlib import closing
from http.client import HTTPConnection

import psutil
import pytest

from flows.home import tracking_uri
from flows.serving.ending import runs_on
from flows.serving.who_is_up import up_on, use_up
from flows.up import UpOptions, run_up
from tests.flows.servers import Servers
from tests.ports import kept_port
from tests.prefect_database import give_database
from tinygptv_core.plain import ConfigError


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """Up for the second time on its home: the first was killed, with a run that trained."""
    home = tmp_path_factory.mktemp("up") / "home"
    give_database(home, tmp_path_factory)
    killed = Servers(home)
    try:
        killed.wait_until_up()
        left = psutil.Process(killed.process.pid).children(recursive=True)
        _, deployment = killed.ask("deployments/name/stages/stages")
        run = {"flow_id": deployment["flow_id"], "deployment_id": deployment["id"], "state": {"type": "RUNNING"}}
        training = killed.ask("flow_runs/", run)[1]
        limit = killed.ask("v2/concurrency_limits/tinygptv-training", {"active_slots": 1}, method="PATCH")
    finally:
        killed.kill()
    assert (training["state"]["type"], limit[0]) == ("RUNNING", 204)
    servers = Servers(home, ports=killed.ports)
    servers.left, servers.training = left, training
    try:
        servers.wait_until_up()
        servers.built, servers.wrong = (
            servers.start(name, of)[1] for name, of in (("backbones", {}), ("data", {"dataset": "laion"}))
        )
        yield servers
        tree = psutil.Process(servers.process.pid).children(recursive=True)
    finally:
        servers.end()
    assert not going_on(tree)
    assert not (servers.home / "up.json").exists()


def going_on(processes):
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_what_one_that_was_killed_left_is_ended_and_its_runs_and_turns_are_taken_back(up):
    assert not going_on(up.left)
    assert up.ended(up.training)["type"] == "CRASHED"
    _, limit = up.ask("v2/concurrency_limits/tinygptv-training")
    assert (limit["limit"], limit["active_slots"]) == (1, 0)


@pytest.mark.parametrize("header", [{}, {"access-control-request-method": "POST"}])
def test_no_page_of_another_address_may_ask_the_server_for_anything(up, header):
    def allowed(origin):
        request = urllib.request.Request(
            f"http://127.0.0.1:{up.ports[0]}/api/deployments/filter",
            data=None if header else b"{}",
            headers={"origin": origin, "content-type": "application/json", **header},
            method="OPTIONS" if header else "POST",
        )
        try:
            return urllib.request.urlopen(request).headers["access-control-allow-origin"]
        except urllib.error.HTTPError as error:
            return error.headers["access-control-allow-origin"]

    own = f"http://localhost:{up.ports[0]}"
    assert allowed(own) == own
    assert allowed("http://127.0.0.2") is None


@pytest.mark.parametrize("port", [0, 1], ids=["Prefect", "MLflow"])
def test_no_name_but_this_machines_own_leads_to_a_server(up, port):
    def answer(host):
        connection = HTTPConnection("127.0.0.1", up.ports[port])
        with closing(connection):
            connection.request("POST", "/api/deployments/filter", "{}", {"host": host, "content-type": "text/plain"})
            return connection.getresponse().status

    assert answer(f"rebound.example:{up.ports[port]}") in (400, 403)
    assert answer(f"localhost:{up.ports[port]}") not in (400, 403)


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
        ("pipeline", {"data": {"lists": ["my.json"]}}, "'my.json' does not match"),
    ],
)
def test_a_wrong_value_is_refused_with_its_reason_before_a_run_exists(up, deployment, parameters, reason):
    of_it = {"deployments": {"name": {"any_": [deployment]}}}
    before = up.ask("flow_runs/count", of_it)
    status, answer = up.start(deployment, parameters)
    assert status == 409
    assert reason in answer["detail"]
    assert up.ask("flow_runs/count", of_it) == before


def test_a_run_that_is_started_there_builds_and_a_mistake_that_only_the_run_can_see_is_its_message(up):
    assert up.wait_until(lambda: up.ended(up.built))["type"] == "COMPLETED"
    state = up.wait_until(lambda: up.ended(up.wrong))
    assert state["type"] == "FAILED"
    assert state["message"].startswith("the preset nano reads no data set laion. It reads: scenes_web, ")
    assert len(list((up.home / "store" / "backbones").iterdir())) == 1


def test_who_wants_to_know_is_told_how_runs_ended(up):
    def titles():
        return {note["title"].split()[-1] for note in up.told}

    assert up.wait_until(lambda: titles() >= {"Completed", "Failed"})
    assert any("reads no data set laion" in note["message"] for note in up.told)


def test_a_command_on_that_home_tells_these_servers(up, monkeypatch):
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # so that it is unset again afterwards
        monkeypatch.delenv(name)
    assert tracking_uri(up.home) == f"http://127.0.0.1:{up.ports[1]}"
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


@pytest.mark.parametrize("option", ["--port", "--mlflow-port"])
def test_where_a_port_is_taken_no_home_is_left(tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], kept_port()]
        with pytest.raises(ConfigError, match=f"^{option} {ports[0]}: the port is taken by process {os.getpid()} "):
            run_up(options(tmp_path / "home", ports if option == "--port" else ports[::-1]))
    assert not (tmp_path / "home").exists()


def test_a_worker_that_dies_is_started_again_and_its_runs_end_with_it(up):
    up.wait_until(lambda: up.ended(up.built) and up.ended(up.wrong) and not runs_on(up.home))
    (worker,) = [one for one in psutil.Process(up.process.pid).children() if "worker" in one.cmdline()]
    run = up.start("data", {"dataset": "scenes_web"})[1]
    processes = up.wait_until(lambda: runs_on(up.home))
    worker.kill()
    up.wait_until(lambda: "the worker ended with status -9; it is started again" in up.said.read_text())
    assert not going_on(processes)
    assert up.wait_until(lambda: up.ended(run))["type"] == "CRASHED"
