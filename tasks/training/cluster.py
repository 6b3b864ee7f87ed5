"""Ray's cluster: the one that a person names, or one on this machine that ends with the command."""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tinygptv_core.drafts import is_gone
from tinygptv_core.plain import ConfigError

LOGGER = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80_000_000
"""Nothing but small configurations goes through Ray; this is about the least it takes."""
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # At its 60 seconds a busy machine starts workers, gives them up and starts them again.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # At Ray's own 15 whatever else runs takes the cores from training, the orchestrator among it.
    "RAY_worker_niceness": "0",
}
"""How Ray behaves here, wherever its cluster is: what a run does not need costs seconds a stage."""
LOCAL_SETTINGS = {
    # Ray turns the address 127.0.0.1 into the machine's own, and listens on all of them, unless clusters of
    # several machines are off. The name is from the systems on which they are off by default.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",  # or it writes a token into the user's home
    "GLOO_SOCKET_IFNAME": "lo",
}
"""The same for a cluster of our own, which stays on loopback."""
TOO_SLOW = "timed out during startup"
MAX_STARTS = 4
MEANT_BY_RAY = ("auto", "local")
"""Addresses that are none of a machine."""
ANSWER_SECONDS = 5.0
BOOTSTRAP = "provider: {type: local}\n"
"""Without a file that names a provider, Ray asks the cloud's metadata address which cloud it is in."""


@contextmanager
def ray_cluster(home: Path, address: str | None) -> Iterator[None]:
    """Ray, for a whole pipeline: the cluster at `address`, or with None one on this machine that ends with us.

    A local cluster stays on loopback. It writes below `home`, which is the HOME of its processes, and, since
    its sockets need a short path, to a folder of its own among the system's temporary ones; nowhere else.

    Raises:
        ConfigError: there is no cluster at `address`, or it lets us not in.
    """
    import_ray(address)
    import ray

    try:
        with _own_sigterm(), _sessions_of_their_own():
            if address is None:
                remove_what_killed_runs_left(_temporary_folder(os.getpid()))
                _start_local(home)
            else:
                connect(address)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(_temporary_folder(os.getpid()), ignore_errors=True)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does: Ray would have it end the process there and then, with nothing saved."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _sessions_of_their_own() -> Iterator[None]:
    """Start Ray's processes in sessions of their own: a signal to our group (Ctrl-C, Prefect's *Cancel*) is for us.

    Ray would end its workers on it, which then could not save. They end with us all the same.
    """
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = partial(before, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = before


def import_ray(address: str | None) -> None:
    """Import all of Ray that training takes, some seconds, after the settings that Ray reads when it is imported."""
    for name, value in {**SETTINGS, **(LOCAL_SETTINGS if address is None else {})}.items():
        os.environ.setdefault(name, value)  # Ray's processes inherit it; what the user has set stays
    import ray.train.torch  # noqa: F401
    from ray._common.utils import env_bool
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR  # read once, which was too early if Ray was imported before us
    ray_constants.ENABLE_RAY_CLUSTER = env_bool(name, ray_constants.ENABLE_RAY_CLUSTER)


def check_answers(address: str) -> None:
    """Refuse an address on which nobody listens: Ray itself would try for a quarter of an hour.

    Args:
        address: HOST:PORT, with or without ray:// in front; of others (`auto`, `local`) only Ray knows what they mean.

    Raises:
        ConfigError: it is no address, or nobody listens there.
    """
    try:
        place = urlsplit(f"//{address.removeprefix('ray://')}")
        if named := place.hostname is not None and place.port is not None:
            socket.create_connection((place.hostname, place.port), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:  # the latter: no port can have that number
        raise ConfigError(_no_cluster(address, error)) from error
    if not (named or address in MEANT_BY_RAY or "://" in address):
        raise ConfigError(f"--ray-address {address}: it must be HOST:PORT, as in 10.0.0.1:6379, or auto")


def _no_cluster(address: str, error: Exception) -> str:
    return (
        f"no Ray cluster answers at {address}: {str(error).partition(chr(10))[0]}\n"
        "  if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as they are on its machines"
    )


def connect(address: str) -> None:
    """Make this process a driver of the cluster at `address`.

    Raises:
        ConfigError: nobody answers there, or it lets us not in.
    """
    check_answers(address)
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (AuthenticationError, ConnectionError, ValueError) as error:
        raise ConfigError(_no_cluster(address, error)) from error


def _start_local(home: Path) -> None:
    ray_home = home / "ray"
    ray_home.mkdir(parents=True, exist_ok=True)
    (ray_home / "ray_bootstrap_config.yaml").write_text(BOOTSTRAP)
    own_home = os.environ.get("HOME")
    os.environ["HOME"] = str(ray_home)
    try:
        _init_local()
    finally:
        if own_home is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = own_home


def _init_local() -> None:
    """Start Ray; again where a busy machine has not done it in the half minute that Ray gives itself."""
    import ray

    for start in range(1, MAX_STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=1,  # the processes share it; Ray starts an idle worker for each
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(_temporary_folder(os.getpid())),
            )
        except Exception as error:
            ray.shutdown()
            if TOO_SLOW not in str(error) or start == MAX_STARTS:
                raise
            LOGGER.warning("Ray did not start in time; once more")
        else:
            return


def _temporary_folder(pid: int) -> Path:
    return Path(tempfile.gettempdir(), f"tinygptv-ray-{os.getuid()}-{pid}")


def workers_folder(home: Path) -> Path:
    """The folder of this process's training workers, which every machine of the cluster must see."""
    return home / "ray" / f"workers-{socket.gethostname()}-{os.getpid()}"


def remove_leftovers(home: Path) -> None:
    """Remove what runs that were killed have left of Ray: for a run that may need no Ray itself."""
    for folder in (_temporary_folder(os.getpid()), workers_folder(home)):
        remove_what_killed_runs_left(folder)


def remove_what_killed_runs_left(folder: Path) -> None:
    """Remove `folder`, whose name ends in -PID, and its likes beside it whose process is no longer there."""
    prefix = folder.name.rpartition("-")[0]
    for left in folder.parent.glob(f"{prefix}-*"):
        pid = left.name.removeprefix(f"{prefix}-")  # of another machine's, whose name begins as ours does, no number
        if left == folder or is_gone(pid):
            shutil.rmtree(left, ignore_errors=True)
