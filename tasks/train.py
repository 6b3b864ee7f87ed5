"""The step `train`: a stage on Ray Train.

Ray places the processes, sets up their group and starts them again when one dies. All else, the states that
a killed run goes on from among it, is `tinygptv_core.train`, which runs the same without Ray.
"""

import json
import logging
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.build import Step
from tasks.track import repeating
from tinygptv_core.metrics import Tail, words
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import RunSpec, read_spec, write_spec

TRAIN = Step(name="train", kind="checkpoint", version=1)

Progress = Callable[[int, int, str], None]
"""(finished steps, all steps, words about it)."""

MAX_RESTARTS = 3
OBJECT_STORE_BYTES = 80_000_000
"""Nothing but small configurations goes through Ray; this is about the least it takes."""
FOLLOW_SECONDS = 0.5
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # At its 60 seconds a busy machine starts workers, gives them up and starts them again.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # at Ray's own 15 whatever else runs takes the cores from training
}
"""How Ray behaves here, wherever its cluster is: what a run does not need costs seconds a stage."""
LOCAL_SETTINGS = {
    "RAY_worker_niceness": "0",  # or the workers yield to everything else, the orchestrator among it
    # Ray turns the address 127.0.0.1 into the machine's own, and listens on all of them, unless clusters of
    # several machines are off. The name is from the systems on which they are off by default.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",  # or it writes a token into the user's home
    "GLOO_SOCKET_IFNAME": "lo",
}
"""The same for a cluster of our own, which stays on loopback."""
BOOTSTRAP = "provider: {type: local}\n"
"""Without a file that names a provider, Ray asks the cloud's metadata address which cloud it is in."""


@contextmanager
def ray_cluster(home: Path, address: str | None) -> Iterator[None]:
    """Ray, for a whole pipeline: the cluster at `address`, or with None one on this machine that ends with us.

    A local cluster stays on loopback. It writes below `home`, which is the HOME of its processes, and, since
    its sockets need a short path, to a folder of its own among the system's temporary ones; nowhere else.

    Raises:
        ConfigError: there is no cluster at `address`.
    """
    import_ray(address)
    import ray

    try:
        if address is None:
            _remove_what_killed_runs_left()
            _start_local(home)
        else:
            _connect(address)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(_temporary_folder(os.getpid()), ignore_errors=True)


def import_ray(address: str | None) -> None:
    """Import all of Ray that training takes, some seconds, after the settings that Ray reads when it is imported."""
    for name, value in {**SETTINGS, **(LOCAL_SETTINGS if address is None else {})}.items():
        os.environ.setdefault(name, value)  # Ray's processes inherit it; what the user has set stays
    import ray.train.torch  # noqa: F401


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"no Ray cluster answers at {address}: {error}") from error


def _start_local(home: Path) -> None:
    import ray

    ray_home = home / "ray"
    ray_home.mkdir(parents=True, exist_ok=True)
    (ray_home / "ray_bootstrap_config.yaml").write_text(BOOTSTRAP)
    own_home = os.environ.get("HOME")
    os.environ["HOME"] = str(ray_home)
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
    finally:
        if own_home is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = own_home


def _temporary_folder(pid: int) -> Path:
    return Path(tempfile.gettempdir(), f"tinygptv-ray-{os.getuid()}-{pid}")


def _remove_what_killed_runs_left() -> None:
    for folder in _temporary_folder(0).parent.glob(f"tinygptv-ray-{os.getuid()}-*"):
        pid = int(folder.name.rpartition("-")[2])
        if not Path("/proc", str(pid)).exists():
            shutil.rmtree(folder, ignore_errors=True)


def train_on_ray(spec: RunSpec, name: str, progress: Progress) -> None:
    """Run `spec` on the running cluster, with `spec.options.processes` workers, from the newest state in `spec.work`.

    A worker that dies is started again, with the others, and goes on from there; at most `MAX_RESTARTS` times.
    What the run has to say is in `spec.notes` (`train` of the core); the workers' messages too.

    Args:
        name: of the run in Ray; carries the step's key.

    Raises:
        ConfigError: the cluster has no room, or the run is refused as the core's `train` says.
        TrainingError: it failed; the states saved before stay.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig

    spec.notes.mkdir(parents=True, exist_ok=True)
    storage, failure = spec.work / "ray", spec.notes / "failure.json"
    # Ray would go on from a run of the same name; what there is to go on from is our own state.
    shutil.rmtree(storage, ignore_errors=True)
    failure.unlink(missing_ok=True)
    write_spec(spec, spec.notes / "RUN.json")
    use_gpu = spec.options.device == "cuda"
    trainer = _lean_trainer()(
        _worker,
        train_loop_config={"run": str(spec.notes / "RUN.json")},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.options.processes,
            use_gpu=use_gpu,
            resources_per_worker=_resources(spec.options.processes, use_gpu),
        ),
        run_config=RunConfig(
            name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=MAX_RESTARTS)
        ),
    )
    with _following(spec, progress):
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise TrainingError(f"{spec.stage.name} failed: {error}. Its messages are in {spec.notes}.") from error
    if failure.exists():
        told = json.loads(failure.read_text())
        raise (ConfigError if told["is_users_mistake"] else TrainingError)(told["message"])


def _lean_trainer() -> type[Any]:
    """Ray's TorchTrainer without two helpers that a run like ours does not need.

    Each is a process of its own in every run, two seconds of a core to start: one shares out Ray data sets, the
    other tidies up after a controller that died, and here the cluster ends with the pipeline.
    """
    from ray.train.torch import TorchTrainer

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            return [item for item in super()._create_default_callbacks() if type(item).__name__ not in UNUSED_CALLBACKS]

    return LeanTrainer


class TrainingError(RuntimeError):
    """A training run failed; the message says where its own messages are."""


def _resources(processes: int, use_gpu: bool) -> dict[str, float]:
    """What one worker takes of the cluster.

    Raises:
        ConfigError: the cluster has fewer GPUs than processes.
    """
    import ray

    has = ray.cluster_resources()
    if use_gpu and has.get("GPU", 0) < processes:
        raise ConfigError(f"{processes} training processes want a GPU each; Ray's cluster has {has.get('GPU', 0):.0f}")
    return {"CPU": min(1.0, has.get("CPU", 1.0) / processes), **({"GPU": 1.0} if use_gpu else {})}


@contextmanager
def _following(spec: RunSpec, progress: Progress) -> Iterator[None]:
    """Tell `progress` what the workers write to `metrics.jsonl`, while they do."""
    tail, total = Tail(spec.notes / "metrics.jsonl"), spec.stage.schedule.steps

    def tell() -> None:
        for line in tail.read()[-1:]:
            progress(line["step"], total, words(line, total))

    with repeating(tell, FOLLOW_SECONDS):
        yield


def _worker(config: dict[str, Any]) -> None:
    """One of Ray's processes. What will fail again is noted, so that Ray's next try ends at once."""
    from ray.train import get_context

    from tinygptv_core.train import train

    spec, context = read_spec(Path(config["run"])), get_context()
    rank, failure = context.get_world_rank(), spec.notes / "failure.json"
    logging.basicConfig(filename=spec.notes / f"worker-{rank}.log", level=logging.INFO)
    if failure.exists():
        return
    try:
        train(spec, rank, context.get_world_size(), lambda done, total, text: None)
    except (ValueError, FloatingPointError) as error:
        told = {"message": str(error), "is_users_mistake": isinstance(error, ConfigError)}
        failure.write_text(json.dumps({**told, "traceback": traceback.format_exc()}))
        raise
