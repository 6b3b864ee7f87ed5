"""MLflow's database and the registry, killed while they are written to."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.register import metrics_of
from tasks.registering.registry import MODEL_TAG, versions
from tests.tasks.registered import SCORES

SCRIPT = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tasks.registering.mlflow_database import make_database
from tasks.register import import_mlflow, register_version
from tasks.registering.registry import versions
from tests.tasks.registered import new_home

WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")

def killed_before(number, doing):
    "Whether `doing`, in a process of its own, was killed before its write of that number could be committed."
    child = os.fork()
    if child == 0:
        seen = [0, False]
        @event.listens_for(Engine, "after_cursor_execute")
        def wrote(connection, cursor, statement, *_):
            seen[1] = seen[1] or statement.lstrip().startswith(WRITES)
            if statement.lstrip().startswith("CREATE TABLE"):
                ended(connection)
        @event.listens_for(Engine, "commit")
        def ended(connection):
            seen[0], seen[1] = seen[0] + seen[1], False
            if seen[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
        doing()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL

root = Path(sys.argv[1])
import_mlflow()
home = new_home(root)
checkpoint = home.checkpoint(1)
model, registration = home.model(checkpoint), home.registration(checkpoint, home.uri)
for number in (1, 12):
    assert killed_before(number, lambda: make_database(home.uri))
    assert not (root / "mlflow" / "mlflow.db").exists()
assert not killed_before(0, lambda: make_database(home.uri))
kills, number, known, step = 0, 1, 0, int(sys.argv[2])
while killed_before(number, lambda: register_version(model, registration)):
    there = len(versions(home.uri, "tinygptv"))
    kills, number, known = kills + 1, number + step if there == known else 1, there  # once it is there other writes
print(kills)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory, request):
    """A home in which a registration was killed before its writes in turn, and over how many of them that was."""
    root, step = tmp_path_factory.mktemp("home"), 1 if request.config.getoption("--long") else 3
    command = [sys.executable, "-c", SCRIPT, str(root), str(step)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return root, step * int(done.stdout)


def test_a_registration_killed_before_its_writes_makes_one_version(killed):
    root, writes = killed
    assert writes >= 10
    (only,) = versions(f"sqlite:///{root}/mlflow/mlflow.db", "tinygptv")
    assert (only.version, only.aliases) == ("1", ("challenger", "tiny"))
    assert only.has_files and only.tags[MODEL_TAG]


def test_it_has_all_its_metrics_and_what_the_kills_left_open_is_closed_by_the_next_run(killed):
    from mlflow import MlflowClient

    from tasks.track import Tracking, tracked_run

    root, _ = killed
    uri = f"sqlite:///{root}/mlflow/mlflow.db"
    client = MlflowClient(uri, uri)
    version = client.get_model_version("tinygptv", "1")
    assert client.get_run(version.run_id).data.metrics == metrics_of(SCORES)
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key for metric in model.metrics} == metrics_of(SCORES).keys()
    with tracked_run(Tracking(uri=uri, experiment="tinygptv", artifacts=Path(root)), "next", {}, None) as run_id:
        experiment = client.get_experiment_by_name("tinygptv")
        runs = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
        assert [run.info.run_id for run in runs] == [run_id]
