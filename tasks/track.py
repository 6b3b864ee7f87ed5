"""Training's metrics, live in MLflow: follows `metrics.jsonl`, and bears on nothing.

Whatever becomes of MLflow, training goes on; what could not be logged is said once, as a warning.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tasks.lease import Holder, is_alive
from tasks.quantities import cut
from tasks.register import experiment_id, import_mlflow, process_tag
from tasks.registering.mlflow_database import make_database
from tasks.registering.registry import PROCESS_TAG, SQLITE
from tinygptv_core.plain import leaves, sha256_of
from tinygptv_core.training.metrics import Tail, numbers

T = TypeVar("T")

LOGGER = logging.getLogger(__name__)

FOLLOW_SECONDS = 1.0
ANSWER_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
"""How long the end of a stage waits for what a slow server still has to take."""
# MLflow takes so many at once, and names of so many characters; values of 6,000, but servers of older versions of 500.
METRICS_AT_ONCE = 1_000
PARAMETERS_AT_ONCE = 100
NAME_CHARACTERS = 250
PARAMETER_CHARACTERS = 500
CUT = "..."
DIGEST_CHARACTERS = 36
SUMMED_UP = ("loss_first", "loss_last", "seconds", "peak_memory_bytes")
PARENT_TAG = "mlflow.parentRunId"


@contextmanager
def repeating(function: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `function` every so many seconds in a thread of its own, and once more at the end.

    A call that does not return within `PATIENCE_SECONDS` of the end is left behind.
    """
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            function()
        function()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(PATIENCE_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where runs are tracked.

    Attributes:
        uri: MLflow's server or database, as MLflow writes it.
        artifacts: where the files of a database's experiment go; a server decides for itself.
    """

    uri: str
    experiment: str
    artifacts: Path


@dataclass(frozen=True, kw_only=True)
class DataUsed:
    """A data set as a stage reads it. MLflow is told what it is; nothing is copied.

    Attributes:
        artifacts: shards, index and picture sets -> digest.
        counts: what became of its rows, step by step.
        about: recipe's source, licence ... in words.
    """

    name: str
    artifacts: Mapping[str, str]
    counts: Mapping[str, Any]
    about: Mapping[str, str]


@contextmanager
def tracked_run(
    tracking: Tracking, run_name: str, parameters: Mapping[str, Any], parent: str | None
) -> Iterator[str | None]:
    """A run in MLflow for as long as the block lasts; FAILED when that raises. Gives its id.

    Args:
        parameters: plain JSON; each of its leaves becomes a parameter of its dotted name.
        parent: the id of the run that this one belongs to.

    What killed processes left open is closed before, as KILLED. An MLflow that does not answer is a warning, and the
    id is None.
    """
    server = _Server(tracking)
    server.ask(lambda client: _close_left_open(client, tracking.experiment))
    with _opened(server, run_name, parameters, parent) as run_id:
        yield run_id


def log_folder(tracking: Tracking, run_id: str, folder: Path) -> None:
    """The files of a folder among the run's artifacts; an MLflow that does not answer is a warning."""
    _Server(tracking).ask(lambda client: client.log_artifacts(run_id, str(folder)))


def run_address(tracking: Tracking, run_id: str) -> str | None:
    """Where a browser finds the run; None of a database, or when the server does not answer."""
    if tracking.uri.startswith(SQLITE):
        return None
    experiment = _Server(tracking).ask(lambda client: client.get_run(run_id).info.experiment_id)
    return f"{tracking.uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}" if experiment else None


@contextmanager
def tracking_stage(
    tracking: Tracking,
    run_name: str,
    parameters: Mapping[str, Any],
    notes: Path,
    parent: str | None,
    data: Sequence[DataUsed] = (),
) -> Iterator[str | None]:
    """`tracked_run` for a stage: logs `metrics.jsonl` in `notes` as it grows, and `summary.json` at the end.

    Args:
        data: what the stage draws from; become inputs of the run.

    Each step is logged once. The successor of a run that was killed has the whole curve.
    """
    server = _Server(tracking)
    with _opened(server, run_name, parameters, parent) as run_id:
        if run_id is None:
            yield None
            return
        server.ask(lambda client: client.log_inputs(run_id, datasets=[_input(item) for item in data]))
        log = _Log(server, run_id, notes)
        with repeating(log.bring_up_to_date, FOLLOW_SECONDS):
            yield run_id
        log.sum_up()


class _Server:
    """MLflow, which may be away: what it cannot be asked is told once."""

    def __init__(self, tracking: Tracking):
        self.tracking, self._client, self._is_told = tracking, None, False
        import_mlflow()

    def ask(self, question: Callable[[Any], T]) -> T | None:
        """`question` of MLflow's client; None when it does not answer."""
        from mlflow import MlflowException

        try:
            _check_answers(self.tracking.uri)
            self._client = self._client or _client(self.tracking.uri)
            return question(self._client)
        except (MlflowException, OSError) as error:
            if not self._is_told:
                LOGGER.warning("MLflow at %s does not take the metrics: %s", self.tracking.uri, error)
            self._is_told = True
            return None

    def open(self, run_name: str, parameters: Mapping[str, Any], parent: str | None) -> str | None:
        """A new run's id."""
        from mlflow.entities import Param

        found = [Param(name[:NAME_CHARACTERS], _short(value)) for name, value in leaves(parameters).items() if name]

        def ask(client: Any) -> str:
            experiment = experiment_id(client, self.tracking.experiment, self.tracking.uri, self.tracking.artifacts)
            tags = {**process_tag(), **({PARENT_TAG: parent} if parent else {})}
            run_id = client.create_run(experiment, run_name=run_name, tags=tags).info.run_id
            for start in range(0, len(found), PARAMETERS_AT_ONCE):
                client.log_batch(run_id, params=found[start : start + PARAMETERS_AT_ONCE])
            return run_id

        return self.ask(ask)


class _Log:
    """Brings a run up to date with what its notes say."""

    def __init__(self, server: _Server, run_id: str, notes: Path):
        self._server, self._run_id, self._notes = server, run_id, notes
        self._tail = Tail(notes / "metrics.jsonl")
        self._waiting: list[Any] = []

    def bring_up_to_date(self) -> None:
        """Log the lines that are new; what the server does not take waits for the next time."""
        for line in self._tail.read():
            self._waiting += _metrics(numbers(line), line["step"])
        while self._waiting and self._log(self._waiting[:METRICS_AT_ONCE]):
            del self._waiting[:METRICS_AT_ONCE]

    def sum_up(self) -> None:
        """Log the summary, if there is one."""
        if not (self._notes / "summary.json").exists():
            return
        summary = json.loads((self._notes / "summary.json").read_text())
        self._log(_metrics({name: summary[name] for name in SUMMED_UP}, summary["steps"]))

    def _log(self, metrics: Sequence[Any]) -> bool:
        def ask(client: Any) -> bool:
            client.log_batch(self._run_id, metrics=metrics)
            return True

        return bool(self._server.ask(ask))


@contextmanager
def _opened(server: _Server, run_name: str, parameters: Mapping[str, Any], parent: str | None) -> Iterator[str | None]:
    run_id = server.open(run_name, parameters, parent)
    status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    finally:
        if run_id is not None:
            server.ask(lambda client: client.set_terminated(run_id, status))


def _close_left_open(client: Any, experiment: str) -> None:
    """Close the runs whose process is no longer there."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for run in client.search_runs([found.experiment_id], filter_string="attributes.status = 'RUNNING'"):
        opened_by = run.data.tags.get(PROCESS_TAG)
        if opened_by and not is_alive(Holder(**json.loads(opened_by))):
            client.set_terminated(run.info.run_id, "KILLED")


def _client(uri: str) -> Any:
    """MLflow's client of that server or database."""
    from mlflow import MlflowClient

    make_database(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _check_answers(uri: str) -> None:
    """Raise OSError when nothing listens there: MLflow's client itself would go on trying for minutes."""
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=ANSWER_SECONDS).close()


def _metrics(values: Mapping[str, float | None], step: int) -> list[Any]:
    """MLflow's metrics of a step; what there is no number for is left out."""
    from mlflow.entities import Metric

    now_milliseconds = int(time.time() * 1000)
    return [Metric(name, value, now_milliseconds, step) for name, value in values.items() if value is not None]


def _short(value: object) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value), PARAMETER_CHARACTERS, CUT)


def _input(data: DataUsed) -> Any:
    """The data set as an input of a run: MLflow's digest is the beginning of that of all its artifacts' digests."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    told = Dataset(
        name=data.name,
        digest=sha256_of(data.artifacts)[:DIGEST_CHARACTERS],
        source_type="tinygptv",
        source=json.dumps({**data.about, "artifacts": data.artifacts}),
        profile=json.dumps(data.counts),
    )
    return DatasetInput(dataset=told, tags=[InputTag("mlflow.data.context", "training")])
