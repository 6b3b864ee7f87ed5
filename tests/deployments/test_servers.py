"""Prefect's and MLflow's servers as the compose file starts them, but on SQLite: who has no password gets nothing."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode

import pytest

from tasks.registering.registry import names, versions
from tests.deployments.test_files import COMPOSE, FOLDER
from tests.ports import kept_port
from tinygptv_core.plain import ConfigError

pytestmark = pytest.mark.long

ACCOUNT = "someone:a-password-of-28-characters"
PATIENCE_SECONDS = 240


def status_of(address: str, account: str | None = None) -> int:
    """The HTTP status; 0 where nobody answers."""
    request = urllib.request.Request(address)
    if account:
        request.add_header("Authorization", f"Basic {b64encode(account.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for(address: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while status_of(address) != 200 and time.monotonic() < end:
        time.sleep(0.2)


def command_of(service: str, changed: dict[str, str]) -> list[str]:
    """What the service runs, listening on loopback, with some of its arguments changed."""
    program, *arguments = COMPOSE["services"][service]["entrypoint"]
    return [sys.executable, "-m", program, *(changed.get(argument, argument) for argument in arguments)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder, ports = tmp_path_factory.mktemp("servers"), {"prefect": kept_port(), "mlflow": kept_port()}
    accounts = folder / "accounts.ini"
    ours = (FOLDER / "container" / "mlflow_auth.ini").read_text()
    accounts.write_text(ours.replace("/srv/mlflow", str(folder)))
    user, _, password = ACCOUNT.partition(":")
    values = {
        "PREFECT_SERVER_API_AUTH_STRING": ACCOUNT,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
        "PREFECT_HOME": str(folder),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_AUTH_CONFIG_PATH": str(accounts),
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret",
    }
    running = []
    for name, port in ports.items():
        told = {key: str(value) for key, value in COMPOSE["services"][name]["environment"].items() if "$" not in value}
        swapped = {"0.0.0.0": "127.0.0.1", "4200": str(port), "5000": str(port), "s3://mlflow/": str(folder / "files")}
        swapped |= {"mlflow:5000,127.0.0.1:5000,localhost:5000": f"127.0.0.1:{port}"}
        with (folder / f"{name}.txt").open("wb") as log:
            running.append(
                subprocess.Popen(
                    command_of(name, swapped), env={**os.environ, **told, **values}, cwd=folder,
                    stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip
    try:
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            process.wait(60)


@pytest.mark.parametrize(
    ("name", "health", "asked"),
    [
        ("prefect", "/api/health", "/api/admin/version"),
        ("mlflow", "/health", "/api/2.0/mlflow/experiments/get?experiment_id=0"),
    ],
)
def test_who_has_no_password_gets_nothing_and_whether_it_is_well_anybody_may_ask(servers, name, health, asked):
    wait_for(servers[name] + health)
    accounts = (None, "someone:else", ACCOUNT)
    assert [status_of(servers[name] + asked, account) for account in accounts] == [401, 401, 200]


def test_the_registry_is_read_with_the_account_of_the_environment(servers, monkeypatch):
    wait_for(servers["mlflow"] + "/health")
    user, _, password = ACCOUNT.partition(":")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "else")
    with pytest.raises(ConfigError, match="401: .* Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        versions(servers["mlflow"], "tinygptv")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    assert (versions(servers["mlflow"], "tinygptv"), names(servers["mlflow"])) == ((), ())


@pytest.mark.parametrize(
    ("account", "status", "said"),
    [("someone:else", 1, "answers 401; 401: set PREFECT_API_AUTH_STRING=USER:PASSWORD"), (ACCOUNT, 0, "")],
)
def test_deployments_are_made_on_a_server_that_asks_for_a_password(servers, account, status, said):
    wait_for(servers["prefect"] + "/api/health")
    told = {"PREFECT_API_URL": servers["prefect"] + "/api", "PREFECT_API_AUTH_STRING": account}
    command = [sys.executable, *COMPOSE["services"]["setup"]["entrypoint"][1:5]]
    done = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    found = status_of(f"{servers['prefect']}/api/deployments/name/pipeline/pipeline", ACCOUNT)
    assert found == (200 if status == 0 else 404)
