"""The step `train`: a stage on Ray Train.

Ray places the processes, sets up their group and starts them again when one dies. All else, the states that
a killed run goes on from among it, is `tinygptv_core.train`, which runs the same without Ray.
"""

import gc
import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tasks.request import Step
from tasks.shortages import LESS_MEMORY, has_no_room, num_oom_kills, why_workers_ended
from tasks.track import repeating
from tasks.training.cluster import remove_what_killed_runs_left, workers_folder
from tinygptv_core.compute import Progress
from tinygptv_core.drafts import write_whole
from tinygptv_core.importing import importing
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import RunOptions, RunSpec, read_spec, write_spec
from tinygptv_core.shortage import has_no_memory
from tinygptv_core.stage import Stage
from tinygptv_core.training.metrics import Tail, words

LOGGER = logging.getLogger(__name__)

TRAIN = Step(name="train", kind="checkpoint", version=3)

MAX_RESTARTS = 3
FOLLOW_SECONDS = 0.5
POLL_SECONDS = 0.1
END_SECONDS = 60.0
KILL_SECONDS = 60.0
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


TERMINATED = Event()
"""That this process, one of Ray's, was sent SIGTERM."""


class TrainingError(RuntimeError):
    """A training run failed; the message says where its own messages are."""


class FailsAgainError(TrainingError):
    """The same run would fail again, as one whose loss is not finite does."""


class Workers:
    """Ray Train's processes on the running cluster, started once; they train one run after another.

    To start them takes longer than a short stage: each imports torch, transformers and Ray. Orders and answers
    are files in a folder, which every machine of the cluster must see, as it must the runs' own folders:
    `N.order` names the N-th run, `N.answer` says how it ended, `N.stop` asks to save and stop it; `abandoned` ends them
    whatever they do. A worker that dies is started again, with the others, at most `MAX_RESTARTS` times; they go on
    with the first order that has no answer, from its newest state.
    """

    def __init__(self, folder: Path, options: RunOptions):
        """Start them in the background.

        Args:
            folder: theirs alone, and new.

        Raises:
            ConfigError: the cluster has no room for `options.processes`.
        """
        self._folder, self._orders, self._end, self._oom_kills = folder, 0, "they ended", num_oom_kills()
        folder.mkdir(parents=True)
        self._thread = Thread(target=self._fit, args=(_trainer(folder, options),), daemon=True)
        self._thread.start()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - whatever ended them, the run at hand is told
            self._end = str(error)

    def train(self, spec: RunSpec, progress: Progress) -> None:
        """Run `spec` from the newest state in `spec.work`.

        Whatever interrupts it (Ctrl-C, SIGTERM) has the workers save after the step at hand, and then goes on its way.

        What the run has to say is in `spec.notes` (`train` of the core); the workers' messages too.

        Raises:
            ConfigError: the run is refused as the core's `train` says.
            TrainingError: it failed; the states saved before stay. FailsAgainError where it would do so again.
        """
        spec.notes.mkdir(parents=True, exist_ok=True)
        write_spec(spec, spec.notes / "RUN.json")
        number, self._orders = self._orders, self._orders + 1
        answer = _answer(self._folder, number)
        with _following(spec, progress):
            write_whole(_order(self._folder, number), json.dumps({"run": str(spec.notes / "RUN.json")}))
            try:
                self._wait_for(answer, math.inf)
            except BaseException:
                LOGGER.warning("%s saves and stops; interrupt once more not to wait for it", spec.stage.name)
                write_whole(_stop(self._folder, number), "")
                self._wait_for(answer, spec.options.stop_seconds)
                raise
        if not answer.exists():
            why = why_workers_ended(self._end, num_oom_kills() - self._oom_kills)
            raise TrainingError(f"{spec.stage.name} failed: {why}. Its messages are in {spec.notes}.")
        told = json.loads(answer.read_text())
        if told["failure"] is not None:
            kinds = {"mistake": ConfigError, "certain": FailsAgainError, "shortage": TrainingError}
            raise kinds[told["kind"]](told["failure"])

    def _wait_for(self, answer: Path, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._thread.is_alive() and not answer.exists() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)  # a join that is interrupted takes the thread for ended (Python 3.11)

    def end(self) -> None:
        """Let them go: by an order if they wait for one; those at work, and those being started again, are killed.

        It waits until the thread that asks Ray for them has ended: Ray ends the whole process, with nothing said, where
        one still asks after `ray.shutdown`.
        """
        write_whole(_order(self._folder, self._orders), json.dumps({"run": None}))
        if self._are_well():
            self._thread.join(END_SECONDS)
        write_whole(_abandoned(self._folder), "")
        self._thread.join(KILL_SECONDS)

    def _are_well(self) -> bool:
        """Whether they have done what they were told. A run that fails has Ray start them all again."""
        last = _answer(self._folder, self._orders - 1)
        return self._orders == 0 or (last.exists() and json.loads(last.read_text())["failure"] is None)


@contextmanager
def ray_workers(home: Path, options: RunOptions) -> Iterator[Workers]:
    """`Workers` for a whole pipeline. Raises as they do."""
    folder = workers_folder(home)
    remove_what_killed_runs_left(folder)
    workers = Workers(folder, options)
    try:
        yield workers
    finally:
        workers.end()
        shutil.rmtree(folder, ignore_errors=True)


def _order(folder: Path, number: int) -> Path:
    return folder / f"{number}.order"


def _answer(folder: Path, number: int) -> Path:
    return folder / f"{number}.answer"


def _stop(folder: Path, number: int) -> Path:
    return folder / f"{number}.stop"


def _abandoned(folder: Path) -> Path:
    return folder / "abandoned"


def _trainer(folder: Path, options: RunOptions) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    use_gpu = options.device == "cuda"
    return _lean_trainer(folder)(
        _worker,
        train_loop_config={"folder": str(folder)},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=options.processes,
            use_gpu=use_gpu,
            resources_per_worker=_resources(options.processes, use_gpu),
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )


def _lean_trainer(folder: Path) -> type[Any]:
    """Ray's TorchTrainer without two helpers that a run like ours does not need.

    Each is a process of its own in every run, two seconds of a core to start: one shares out Ray data sets, the
    other tidies up after a controller that died, and here the cluster ends with the pipeline.

    Its workers hear SIGTERM, and its controller, Ray's process that starts and restarts them, ends when they are
    abandoned, and they with it.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

    class Hearing(ControllerCallback, WorkerGroupCallback):
        def after_controller_start(self, train_run_context: Any) -> None:
            Thread(target=_end_when_abandoned, args=(folder,), daemon=True).start()

        def after_execution_group_start(self, execution_group: Any) -> None:
            execution_group.execute(_hear_sigterm)

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            found = super()._create_default_callbacks()
            return [Hearing(), *(item for item in found if type(item).__name__ not in UNUSED_CALLBACKS)]

    return LeanTrainer


def _hear_sigterm() -> None:
    """In a worker's main thread; training has another. Ray's own answer to the signal is to end at once."""
    signal.signal(signal.SIGTERM, lambda number, frame: TERMINATED.set())


def _end_when_abandoned(folder: Path) -> None:
    """In a thread of Ray's controller. What Ray keeps of the room that they had ends with the cluster, or with this
    command's part in it."""
    import ray

    while not _abandoned(folder).exists():
        time.sleep(POLL_SECONDS)
    ray.kill(ray.get_runtime_context().current_actor)  # an exit of its own Ray would tell as an error


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
    """Tell `progress` what the workers write to `metrics.jsonl`, while they do, and warn of what they warn of.

    What a killed run has written there was told then; its steps say nothing of how fast those of this run are.
    """
    tail, total = Tail(spec.notes / "metrics.jsonl"), spec.stage.schedule.steps
    tail.read()

    def tell() -> None:
        lines = tail.read()
        for text in (text for line in lines for text in line.get("warnings", ())):
            LOGGER.warning("%s: %s", spec.stage.name, text)
        for line in lines[-1:]:
            progress(line["step"], total, words(line))

    with repeating(tell, FOLLOW_SECONDS):
        yield


def _worker(config: dict[str, Any]) -> None:
    """One of Ray's processes: takes the orders one by one until the one to end."""
    folder = Path(config["folder"])
    # All workers see the same answers: none is written before every one of them has taken its order.
    first = next(number for number in count() if not _answer(folder, number).exists())
    for number in count(first):
        order = _order(folder, number)
        while not order.exists():
            if TERMINATED.wait(POLL_SECONDS):
                raise TrainingError("this process was sent SIGTERM")
        run = json.loads(order.read_text())["run"]
        if run is None:
            return
        _train_one(Path(run), _answer(folder, number), _stop(folder, number))


def _fails_again(error: Exception, stage: Stage) -> dict[str, str] | None:
    """What would only fail again if the workers were started again: in words, and of which kind it is.

    None of what may have been an accident.
    """
    if has_no_memory(error):
        return {"failure": f"memory ran out: {error}\n  {LESS_MEMORY}", "kind": "shortage"}
    if has_no_room(error):
        return {"failure": str(error), "kind": "shortage"}
    if isinstance(error, FloatingPointError):
        from tinygptv_core.training.not_finite import HeldOutNotFiniteError

        cure = _sounder(stage) if isinstance(error, HeldOutNotFiniteError) else _calmer(stage)
        return {"failure": f"{error}\n  {cure}", "kind": "certain"}
    if isinstance(error, ValueError):
        return {"failure": str(error), "kind": "mistake" if isinstance(error, ConfigError) else "certain"}
    return None


def _calmer(stage: Stage) -> str:
    """What keeps numbers finite, as a person types it."""
    name, schedule, clip = stage.name, stage.schedule, "none" if stage.clip_norm is None else stage.clip_norm
    return (
        f"what may help: a lower rate (--set {name}.schedule.peak=RATE; it is {schedule.peak:g}), a longer warm-up\n"
        f"  (--set {name}.schedule.warmup_steps=N; it is {schedule.warmup_steps:,}), tighter clipping of gradients "
        f"(--set {name}.clip_norm=X; it is {clip})"
    )


def _sounder(stage: Stage) -> str:
    """What may be wrong where numbers are not finite before the first step, which no schedule bears on."""
    wider = f", or in {stage.precision} (--set {stage.name}.precision=float32)" if stage.precision != "float32" else ""
    return f"no step was taken yet: look in the weights that it starts from{wider}"


def _train_one(run: Path, answer: Path, stop: Path) -> None:
    """Train, and answer how it ended. What failed fails the whole group, in which others may wait for this process.

    A run that the driver stops is answered. One that stops because a worker was sent SIGTERM has no answer, and all
    go on with it when Ray has started them again.
    """
    with importing():
        import torch
        from ray.train import get_context

        from tasks.zero import train
        from tinygptv_core.training.saving import StoppedError

    spec, context = read_spec(run), get_context()
    rank = context.get_world_rank()
    logging.basicConfig(filename=spec.notes / f"worker-{rank}.log", level=logging.INFO, force=True)

    def asked_to_stop() -> bool:
        return TERMINATED.is_set() or stop.exists()

    try:
        train(spec, rank, context.get_world_size(), lambda done, total, text: None, asked_to_stop)
    except StoppedError as stopped:
        LOGGER.warning("%s", stopped)
        if not stop.exists():
            raise
    except Exception as error:
        LOGGER.exception("%s failed", spec.stage.name)
        if (told := _fails_again(error, spec.stage)) is not None:
            write_whole(answer, json.dumps(told))
        raise
    if rank == 0:
        write_whole(answer, json.dumps({"failure": None}))
    gc.collect()
    torch.cuda.empty_cache()
