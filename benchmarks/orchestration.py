"""What Prefect and we cost around the work: a run that finds everything built, and what a run that builds adds to it.

python -m benchmarks.orchestration
python -m benchmarks.orchestration --whole
python -m benchmarks.orchestration --home DIR

`tinygptv up` is started on a home, and the deployment `pipeline` over REST, as the page does it. The first run builds
(a small `nano`; with `--whole` or `--home` the real one), unless the home has it already; the next find all built.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flows.settings import configure_prefect

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

GOAL_SECONDS, GOAL_OURS_SECONDS, GOAL_SHARE = 15.0, 5.0, 0.05
DEPLOYMENT = "pipeline/pipeline"
POLL_SECONDS = 0.1
STEPS = 25
PICTURES = {"pretraining": 400, "instruction": 400, "held_out": 60}
SMALL = {
    "changes": {
        **{f"stage{number}": {"steps": STEPS} for number in (1, 2, 3, 4)},
        "evaluations": ["scenes_vqa"],
        "settings": [f"scenes.{name}_pictures={number}" for name, number in PICTURES.items()],
    }
}


class RunError(RuntimeError):
    """A run that was to be measured failed."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run, from the order to start it until its end was seen; seconds.

    Attributes:
        waiting: until a worker has taken it.
        starting: of its process, with all imports, until our flow's first line.
        ours: from there to our flow's last line.
        ending: until the server says so.
        work: of `ours`, what the steps took that were built.
        report: of `ours`, what the report and the data cards took.
    """

    waiting: float
    starting: float
    ours: float
    ending: float
    work: float
    report: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.waiting + self.starting + self.ours + self.ending

    @property
    def share(self) -> float:
        """What is neither work nor report, by those."""
        return self.beside / (self.work + self.report)

    @property
    def beside(self) -> float:
        """What is neither."""
        return self.seconds - self.work - self.report


@contextmanager
def up(home: Path) -> Iterator[str]:
    """`tinygptv up` on a home; the address of Prefect's API."""
    port, mlflow_port = _free_port(), _free_port()
    ports = ["--port", str(port), "--mlflow-port", str(mlflow_port)]
    command = [sys.executable, "-m", "flows.cli", "up", "--home", str(home), *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not any("Ctrl-C" in line for line in process.stdout):
                raise RunError(f"tinygptv up ended with status {process.wait()}; see {home}/up")
            yield f"http://127.0.0.1:{port}/api"
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def run(client: "SyncPrefectClient", home: Path, parameters: Mapping[str, Any]) -> Ran:
    """Have it run, until it has ended.

    Raises:
        RunError: it did not complete.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter, TaskRunFilterName

    deployment = client.read_deployment_by_name(DEPLOYMENT)
    reports = set(home.glob("runs/*/report.json"))
    began = time.time()
    flow_run = client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters))
    while not (state := client.read_flow_run(flow_run.id).state) or not state.is_final():
        time.sleep(POLL_SECONDS)
    ended = time.time()
    if not state.is_completed():
        raise RunError(f"the run ended as {state.name}: {state.message}")
    at = {one.type.value: one.timestamp.timestamp() for one in client.read_flow_run_states(flow_run.id)}
    (path,) = set(home.glob("runs/*/report.json")) - reports
    steps = json.loads(path.read_text())["steps"]
    (report,) = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])),
        task_run_filter=TaskRunFilter(name=TaskRunFilterName(any_=["report"])),
    )
    return Ran(
        waiting=at["PENDING"] - began,
        starting=at["RUNNING"] - at["PENDING"],
        ours=at["COMPLETED"] - at["RUNNING"],
        ending=ended - at["COMPLETED"],
        work=sum(step["seconds"] for step in steps if step["action"] == "build"),
        report=report.total_run_time.total_seconds(),
    )


def measured(home: Path, parameters: Mapping[str, Any], times: int) -> Iterator[Ran]:
    """Runs on a home, the first of which builds what it lacks."""
    configure_prefect(home)
    from prefect.client.orchestration import SyncPrefectClient

    with up(home) as address, SyncPrefectClient(address) as client:
        for _ in range(times + 1):
            yield run(client, home, parameters)


HEAD = (
    "| run | all | until a worker takes it | process, imports | our flow | of it work | report | until told |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def row(name: str, ran: Ran) -> str:
    """A run's seconds."""
    parts = (ran.seconds, ran.waiting, ran.starting, ran.ours, ran.work, ran.report, ran.ending)
    return f"| {name} | {' | '.join(f'{seconds:.1f}' for seconds in parts)} |"


def verdicts(first: Ran, reused: Sequence[Ran]) -> Iterator[str]:
    """The medians against what is wanted."""
    for what, found, goal in (
        ("a run that finds all built", median(one.seconds for one in reused), GOAL_SECONDS),
        ("of it our flow", median(one.ours for one in reused), GOAL_OURS_SECONDS),
    ):
        yield f"{what}: {found:.1f} s, wanted {goal:.0f} s at most: {'yes' if found <= goal else 'NO'}"
    if first.work:
        fits = "yes" if first.share <= GOAL_SHARE else "NO"
        yield (
            f"the run that builds: {first.beside:.1f} s beside {first.work:.1f} of its steps' work and "
            f"{first.report:.1f} of report, {first.share:.1%}; of a whole nano {GOAL_SHARE:.0%} are wanted: {fits}"
        )


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row, and what the goals say of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration")
    parser.add_argument("--times", type=int, default=3, help="runs that find all built (3)")
    parser.add_argument("--whole", action="store_true", help="nano as it is, not a small one: minutes")
    parser.add_argument("--home", type=Path, help="one that is kept, for nano as it is (default: a new one)")
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        home = given.home.absolute() if given.home else Path(name)
        runs: list[Ran] = []
        print(*HEAD, sep="\n", flush=True)
        for ran in measured(home, {} if given.whole or given.home else SMALL, given.times):
            print(row("builds" if ran.work else "finds all built", ran), flush=True)
            runs.append(ran)
        print("", *verdicts(runs[0], runs[1:]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
