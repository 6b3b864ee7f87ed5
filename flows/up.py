"""`tinygptv up`: Prefect's server, MLflow's server, the deployments and the worker that runs them, on loopback.

They share one home, whose databases they keep. `up.json` in it says who they are: a run on that home tells them what
it does instead of starting a server of its own, a second `up` is refused, and what a killed one left is ended.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from flows.choosing.choice import default_data
from flows.serving.ending import end_runs, end_trees, runs_on
from flows.serving.ports import HOST, check_free
from flows.serving.who_is_up import RunningServers, servers_noted, up_on
from flows.settings import DEPLOYMENTS, POOL, SERVER, configure_prefect, only_pages_of
from tasks.lease import is_alive, lease, myself
from tasks.register import QUIET
from tasks.registering.mlflow_database import make_database
from tasks.registering.registry import database_in
from tinygptv_core.drafts import write_whole
from tinygptv_core.plain import ConfigError

PREFECT_PORT, MLFLOW_PORT = 4200, 5000
START_SECONDS = 120.0
POLL_SECONDS = 0.2
RESTART_SECONDS = 2.0
HEARTBEAT_SECONDS = 30
QUERY_SECONDS = 2
"""How often the worker looks for runs to start. Prefect's own 10 are most of what one waits for where all is built."""


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """How the servers run.

    Attributes:
        runs: so many runs at once; `trainings`: of these so many train at once.
        prefect_database, mlflow_database: postgresql://USER:PASSWORD@HOST/NAME; None: SQLite in the home.
        notify: who is told how a run ended, as Apprise writes it; None: nobody.
    """

    home: Path
    port: int
    mlflow_port: int
    runs: int
    trainings: int
    prefect_database: str | None
    mlflow_database: str | None
    notify: str | None

    @property
    def prefect(self) -> str:
        """The address of Prefect's pages."""
        return f"http://{HOST}:{self.port}"

    @property
    def mlflow(self) -> str:
        """The address of MLflow's pages."""
        return f"http://{HOST}:{self.mlflow_port}"


def run_up(options: UpOptions) -> None:
    """Start everything, print the addresses, and end everything when told to (Ctrl-C, SIGTERM).

    Raises:
        ConfigError: the home or a port is taken.
        RuntimeError: a server ended by itself, or did not start.
    """
    if not options.home.exists():  # so that none is left behind; in one that is there, they may be a killed one's
        _check_ports(options)
    with lease(options.home / "up.lease", _refusing_second(options.home)):
        _run_up(options)


def _run_up(options: UpOptions) -> None:
    _end_what_was_left(options.home)
    _check_ports(options)
    configure_prefect(options.home)
    os.environ.update(_environment(options))
    if options.mlflow_database is None:
        make_database(database_in(options.home))  # whole, which the server's own is not where it is killed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end everything in good order
    try:
        with suppress(KeyboardInterrupt), _Servers(options) as servers:
            _serve(options, servers)
    finally:
        (options.home / "up.json").unlink(missing_ok=True)


def _check_ports(options: UpOptions) -> None:
    for name, port in (("--port", options.port), ("--mlflow-port", options.mlflow_port)):
        check_free(name, port)


def _serve(options: UpOptions, servers: "_Servers") -> NoReturn:
    servers.start("prefect-server", _prefect_server(options))
    servers.start("mlflow-server", _mlflow_server(options))
    from flows.deploy import deploy  # which takes seconds, and so while they start

    servers.wait_for(f"{options.prefect}/api/health")
    deploy(DEPLOYMENTS, POOL, trainings=options.trainings, notify=options.notify)
    servers.wait_for(f"{options.mlflow}/health")
    _say(f"Prefect  {options.prefect}/deployments   start a run, see what runs")
    _say(f"MLflow   {options.mlflow}/#/models   curves, and the models")
    _say(f"home     {options.home}")
    _say("Ctrl-C stops all of it; what runs then goes on when it is started again.")
    servers.keep("worker", _worker(options))


class _Servers:
    """Processes that end together."""

    def __init__(self, options: UpOptions):
        self._options, self._running = options, dict[str, subprocess.Popen[bytes]]()
        self._up = RunningServers(holder=myself(), prefect=options.prefect, mlflow=options.mlflow)
        self._note()

    def __enter__(self) -> "_Servers":
        return self

    def __exit__(self, *of_error: object) -> None:
        """End them."""
        _say("stopping: what runs goes on when it is started again")
        end_trees([process.pid for process in self._running.values()])

    def log(self, name: str) -> Path:
        """Where the process's messages are."""
        return self._options.home / "up" / f"{name}.log"

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process that ends with this one."""
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as messages:
            process = subprocess.Popen(
                [sys.executable, "-m", "tasks.tied", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who tell them in order
            )
        self._running[name] = process
        started = [myself(one.pid) for one in self._running.values()]
        self._up = replace(self._up, servers=tuple(started))
        self._note()

    def wait_for(self, address: str) -> None:
        """Until it answers.

        Raises:
            RuntimeError: a process ended, or it does not answer in time.
        """
        end = time.monotonic() + START_SECONDS
        while not _answers(address):
            self._check()
            if time.monotonic() > end:
                raise RuntimeError(f"{address} did not answer in {START_SECONDS:.0f} s; see {self._options.home}/up")
            time.sleep(POLL_SECONDS)

    def keep(self, name: str, command: Sequence[str]) -> NoReturn:
        """Start it again whenever it ends, and its runs with it, until a server does.

        Raises:
            RuntimeError: a server ended by itself.
        """
        from flows.deploy import close_open_runs

        while True:
            self.start(name, command)
            status = self._until_end_of(name)
            end_runs(self._options.home)  # nobody would hear what they say, nor end them
            close_open_runs(DEPLOYMENTS)  # those that had not begun to tell the server what they do
            _say(f"the {name} ended with status {status}; it is started again (its messages: {self.log(name)})")
            time.sleep(RESTART_SECONDS)

    def _until_end_of(self, name: str) -> int:
        process = self._running.pop(name)
        try:
            while process.poll() is None:
                self._check()
                time.sleep(POLL_SECONDS)
        except BaseException:
            end_runs(self._options.home, process.pid)  # first: they and it tell the servers how they ended
            end_trees([process.pid])
            raise
        return process.returncode

    def _check(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None:
                raise RuntimeError(f"the {name} ended with status {process.returncode}; see {self.log(name)}")

    def _note(self) -> None:
        write_whole(self._options.home / "up.json", json.dumps(asdict(self._up), indent=1))


def _environment(options: UpOptions) -> dict[str, str]:
    """What all of them, and the runs that the worker starts, are told."""
    database = with_driver(options.prefect_database, "asyncpg") if options.prefect_database else None
    data = default_data()
    return {
        **QUIET,
        **SERVER,
        **only_pages_of(options.port),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # four processes for jobs that nobody starts
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_API_URL": f"{options.prefect}/api",
        "MLFLOW_TRACKING_URI": options.mlflow,
        # Not among the arguments, which every user of the machine can read: it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": with_driver(options.mlflow_database or database_in(options.home), "pg8000"),
        "TINYGPTV_HOME": str(options.home),
        **({"TINYGPTV_DATA": data} if data else {}),
        # A run that is killed together with its worker is shown as crashed when its heartbeat stays away.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_SECONDS),
        **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}),
    }


def with_driver(url: str, driver: str) -> str:
    """`postgresql://...` with the driver that is installed for it; what names one, or is no PostgreSQL, as it is."""
    return re.sub(r"^postgres(ql)?://", f"postgresql+{driver}://", url)


def _prefect_server(options: UpOptions) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", "--factory", "flows.serving.server:served", "--log-level", "warning"]
    return [*command, "--host", HOST, "--port", str(options.port)]


def _mlflow_server(options: UpOptions) -> list[str]:
    # Files are written where a run without the server writes them too, so that either finds what the other made.
    files = (options.home / "mlflow" / "artifacts").as_uri()
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(options.mlflow_port)]
    return [*command, "--workers", "1", "--default-artifact-root", files, "--no-serve-artifacts"]


def _worker(options: UpOptions) -> list[str]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--name", "up"]
    return [*command, "--pool", POOL, "--limit", str(options.runs)]


def _refusing_second(home: Path) -> Callable[[str], NoReturn]:
    def refuse(text: str) -> NoReturn:
        found = up_on(home)
        told = f":\n  Prefect  {found.prefect}\n  MLflow   {found.mlflow}" if found else ""
        whose = found.holder if found else "another `tinygptv up`, which is starting"
        raise ConfigError(
            f"the home {home} is up already, by {whose}{told}\n"
            "  name another home with --home DIR, or stop that one with Ctrl-C"
        )

    return refuse


def _end_what_was_left(home: Path) -> None:
    """End the processes of an `up` that was killed and could not."""
    if runs_on(home):
        _say("ends the runs of an earlier `tinygptv up` on this home")
        end_runs(home)
    left = [server for server in servers_noted(home) if is_alive(server)]
    if left:
        _say(f"ends {len(left)} processes of an earlier `tinygptv up` on this home that was killed")
    end_trees([server.pid for server in left])


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=START_SECONDS) as response:
            return response.status == 200
    except OSError:
        return False


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
