"""Twenty runs of small variants, four at a time, on one home and one Ray cluster: about a quarter of an hour."""

import json
import sqlite3
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
from conftest import COMMAND, PATIENCE_SECONDS, new_home

from tasks.promote import events
from tasks.register import CHALLENGER, CHAMPION
from tasks.registering.registry import CHECKPOINT_TAG, MODEL_TAG, database_in, versions
from tests.ray_nodes import Nodes
from tinygptv_core.training.metrics import numbers

pytestmark = pytest.mark.long

AT_ONCE = 4
CORES = 2
"""Of the cluster: two runs train at once, and two wait for room."""
STAGES = ("stage1", "stage2", "stage3", "stage4")
SMALL = {
    **{f"scenes.{name}_pictures": n for name, n in (("pretraining", 160), ("instruction", 120), ("held_out", 40))},
    **{f"{stage}.schedule.steps": 10 for stage in STAGES},
    **{f"{stage}.schedule.warmup_steps": 2 for stage in STAGES},
    **{f"{stage}.evals": '["scenes_vqa"]' for stage in STAGES},
}
PEAKS = {"stage2": (1e-3, 2e-3), "stage3": (1e-3, 2e-3, 3e-3), "stage4": (1e-3, 2e-3, 3e-3)}
VARIANTS = [dict(zip(PEAKS, peaks, strict=True)) for peaks in product(*PEAKS.values())]
RUNS = [VARIANTS[0], VARIANTS[0], VARIANTS[1], VARIANTS[1], *VARIANTS[2:]]
"""Eighteen variants, and the first two of them twice, at the same time."""


class Ended:
    """A command that ended: what it said, and its report."""

    def __init__(self, done):
        self.said = f"{done.stdout}{done.stderr}"
        assert done.returncode == 0, self.said[-4000:]
        self.report = json.loads(Path(done.stdout.splitlines()[-1]).read_text())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("ray"), RAY_AUTH_MODE="disabled")
    try:
        nodes.start_head(cores=CORES)
        yield nodes
    finally:
        nodes.end()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return new_home(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def runs(home, cluster):
    """The twenty runs."""

    def run(variant):
        peaks = {f"{stage}.schedule.peak": peak for stage, peak in variant.items()}
        settings = [word for name, value in {**SMALL, **peaks}.items() for word in ("--set", f"{name}={value}")]
        where = ["--ray-address", cluster.address, "--option", "processes=1", "--option", "log_every_steps=1"]
        environment = {**home.environment(), **cluster.environment, "PREFECT_SERVER_LOG_RETRYABLE_ERRORS": "true"}
        environment["PYTHONPATH"] = home.environment()["PYTHONPATH"]
        return subprocess.run(
            [*COMMAND, "run", *settings, *where],
            env=environment, cwd=home.path.parent, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [Ended(done) for done in pool.map(run, RUNS)]


def test_no_artifact_is_built_twice(runs, home):
    built = Counter(
        (step["step"], step["artifact"]) for run in runs for step in run.report["steps"] if step["action"] == "build"
    )
    assert set(built.values()) == {1}
    records = [read(path) for path in home.path.glob("store/keys/*/*.json") if path.parent.name != "segment"]
    assert Counter(name for name, _ in built) == Counter(record["name"] for record in records)
    assert [record["name"] for record in records if record["others"]] == []
    trained = {name: number for name, number in Counter(name for name, _ in built).items() if name.endswith("/train")}
    assert trained == {"stage1/train": 1, "stage2/train": 2, "stage3/train": 6, "stage4/train": 18}


def test_no_metric_is_lost(runs, home):
    """What each of the 27 trainings wrote, MLflow has, line by line."""
    keys = [path.stem for path in home.path.glob("store/keys/train/*.json")]
    lines = [(home.path / "store" / "notes" / key / "metrics.jsonl").read_text().splitlines() for key in keys]
    told = [[json.loads(line) for line in of_run] for of_run in lines]
    assert [[line["step"] for line in of_run] for of_run in told] == [list(range(1, 11))] * 27
    wanted = [
        {(name, line["step"], value) for line in of_run for name, value in numbers(line).items()} for of_run in told
    ]
    wanted = [{told for told in of_run if told[2] is not None} for of_run in wanted]
    found = logged(home)
    for of_run in wanted:
        assert sum(of_run <= logs for logs in found) == 1
    assert len(found) == 27


def test_every_run_is_closed(runs, home):
    assert rows(home, "mlflow/mlflow.db", "SELECT DISTINCT status FROM runs") == [("FINISHED",)]
    states = rows(home, "prefect/prefect.db", "SELECT state_type, count(*) FROM flow_run GROUP BY state_type")
    assert states == [("COMPLETED", 20)]


def test_no_database_is_locked_and_nothing_fails_on_the_way(runs, home):
    logs = {path: path.read_text(errors="replace") for path in home.path.rglob("*.log")}
    said = {**dict(enumerate(run.said for run in runs)), **logs}
    assert [where for where, text in said.items() if "database is locked" in text] == []
    assert [where for where, text in said.items() if "Traceback" in text] == []


def test_the_registry_has_a_version_for_each_variant_and_each_alias_once(runs, home):
    uri = database_in(home.path)
    found = versions(uri, "tinygptv")
    assert [version.version for version in found] == [str(number) for number in range(1, 19)]
    models = {step["artifact"] for run in runs for step in run.report["steps"] if step["step"] == "register"}
    assert Counter(version.tags[MODEL_TAG] for version in found) == dict.fromkeys(models, 1)
    checkpoints = {version.version: version.tags[CHECKPOINT_TAG] for version in found}
    assert all(
        checkpoints[model["version"]] == model["checkpoint_digest"] for run in runs for model in [run.report["model"]]
    )
    aliases = Counter(alias for version in found for alias in version.aliases)
    assert aliases == {CHALLENGER: 1, CHAMPION: 1, "stage4": 1}
    (newest,) = [version.aliases for version in found if CHALLENGER in version.aliases]
    assert "stage4" in newest
    (first,) = events(uri, "tinygptv")
    assert [version.version for version in found if CHAMPION in version.aliases] == [first.version]


def logged(home):
    """The (metric, step, value) of each run of a stage in MLflow."""
    query = """SELECT runs.run_uuid, key, step, value FROM runs JOIN metrics ON runs.run_uuid = metrics.run_uuid
    WHERE runs.name LIKE 'stage_'"""
    found = {}
    for run, *metric in rows(home, "mlflow/mlflow.db", query):
        found.setdefault(run, set()).add(tuple(metric))
    return list(found.values())


def rows(home, database, query):
    with closing(sqlite3.connect(home.path / database)) as connection:
        return connection.execute(query).fetchall()


def read(path):
    return json.loads(path.read_text())
