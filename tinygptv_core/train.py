"""One stage of training, from `RUN.json` to a checkpoint; killed at any moment, it goes on where it was.

python -m tinygptv_core.train RUN.json
torchrun --nproc-per-node 2 -m tinygptv_core.train RUN.json
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as distributed

from tinygptv_core.alone import alone
from tinygptv_core.checkpoint import read_checkpoint, write_checkpoint
from tinygptv_core.checkpoint_form import check_norms
from tinygptv_core.compute import Progress
from tinygptv_core.drafts import write_whole
from tinygptv_core.draws import ORDER_VERSION
from tinygptv_core.engine import Engine
from tinygptv_core.formats.architectures import sizes_of
from tinygptv_core.loader import Steps, batches
from tinygptv_core.memory import forget_peak_memory, peak_memory_bytes
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError, sha256_of
from tinygptv_core.precision import dtype_of
from tinygptv_core.prompt import Tokenizer
from tinygptv_core.run import RunOptions, RunSpec, read_spec
from tinygptv_core.schedule import rate
from tinygptv_core.shortage import has_no_memory
from tinygptv_core.sizes import ModelSizes
from tinygptv_core.stage import Stage, check_adapters
from tinygptv_core.trainable import load_trainable
from tinygptv_core.training.compiling import compile_layers, require_compiler
from tinygptv_core.training.ddp import DDPEngine
from tinygptv_core.training.metrics import left, words
from tinygptv_core.training.metrics_logger import MetricsLogger
from tinygptv_core.training.not_finite import NotFiniteError
from tinygptv_core.training.processes import gathered
from tinygptv_core.training.saving import AskedToStop, Saver, StoppedError, asked_by_signals, never
from tinygptv_core.training.states import Position, State, drop_states_after, load_state
from tinygptv_core.weights import load_backbones

LOGGER = logging.getLogger(__name__)


class NewEngine(Protocol):
    """Makes the engine that trains `model`, in each process of a run."""

    def __call__(self, model: TinyGPTV, stage: Stage, options: RunOptions, *, rank: int, world_size: int) -> Engine: ...


class Train(Protocol):
    """`train`, or one that knows more engines."""

    def __call__(
        self, spec: RunSpec, rank: int, world_size: int, report: Progress, asked_to_stop: AskedToStop = never
    ) -> None: ...


LESS_MEMORY = (
    'less is taken with these of the options in RUN.json: "micro_batch": 1 (or a few: the numbers stay), '
    '"gradient_checkpointing": true, "packed": true and "loader_workers": 0'
)
NO_SUCH_KERNEL = "does not have a deterministic implementation"
"""In torch's words."""
READER_DIED = "DataLoader worker (pid"
"""In torch's words, where a process that reads ahead was killed."""
STOPPED = 128 + signal.SIGTERM
"""The exit status of a run that was asked to stop, as of one that the signal ended."""


def ddp_engine(model: TinyGPTV, stage: Stage, options: RunOptions, *, rank: int, world_size: int) -> DDPEngine:
    """The only engine of the core.

    Raises:
        ConfigError: the options name another.
    """
    if options.engine != "ddp":
        raise ConfigError(
            f"engine is {options.engine}, which is DeepSpeed's and not of the core; here there is ddp, with the same "
            "numbers. With the pipeline installed (pip install 'tinygptv[pipeline]') it is: "
            "torchrun -m tasks.zero RUN.json"
        )
    return DDPEngine(model, stage, options, rank=rank, world_size=world_size)


def train(
    spec: RunSpec,
    rank: int,
    world_size: int,
    report: Progress,
    asked_to_stop: AskedToStop = never,
    new_engine: NewEngine = ddp_engine,
) -> None:
    """Train `spec.stage` and write its checkpoint to `spec.out`, `metrics.jsonl` and `summary.json` to `spec.notes`.

    With more than one process torch's default process group must be there; each process calls this.
    A run that was killed goes on from the newest state in `spec.work`, with the bits it would have had.

    Args:
        asked_to_stop: asked after every step, in each process; where one says so, all of them save and stop.

    Raises:
        StoppedError: the run was asked to stop, and is saved.
        ConfigError: a file that `spec` names is missing or damaged, or of another model, a data set is empty, or
            `spec.work` holds another run, or is held by one.
        NotFiniteError: the loss or a gradient is not finite, or before the first step the loss on held-out samples; the
            states saved before it stay.
    """
    torch.set_num_threads(spec.options.threads)
    be_deterministic()
    forget_peak_memory(spec.options.device)
    with alone(spec.work) if rank == 0 else nullcontext():
        _train(spec, rank, world_size, report, asked_to_stop, new_engine)


def _train(
    spec: RunSpec, rank: int, world_size: int, report: Progress, asked_to_stop: AskedToStop, new_engine: NewEngine
) -> None:
    missing = sorted(spec.stage.mix.keys() - (spec.data.keys() & spec.prompts.keys()))
    if missing:
        raise ConfigError(f"{spec.stage.name} draws from {', '.join(missing)}, for which data or prompts has nothing")
    model, tokenizer = starting_model(spec)
    sizes = sizes_of(model)
    engine = new_engine(model, spec.stage, spec.options, rank=rank, world_size=world_size)
    steps = Steps(spec, tokenizer, rank=rank, world_size=world_size)
    run = _Run(spec=spec, engine=engine, sizes=sizes, steps=steps, rank=rank, world_size=world_size, report=report)
    start = _start(run)
    with Saver(spec, rank=rank, world_size=world_size, asked_to_stop=asked_to_stop) as saver:
        end = _loop(run, start, saver)
    parameters = parameters_of(engine)  # of which the last step, too, is known to be finite then
    loss_last, notices = _last_loss(run)
    memory = gathered(peak_memory_bytes(spec.options.device), world_size)
    if rank == 0:
        write_checkpoint(spec.out, parameters, spec.stage)
        samples = sum(spec.stage.mix[steps.order.dataset_at(step)].batch for step in range(end.step))
        summary = {
            "steps": end.step,
            "loss_first": end.loss_first,
            "loss_last": loss_last,
            "seconds": end.seconds,
            "samples_per_second": samples / end.seconds,
            "peak_memory_bytes": max(memory),
            "world_size": world_size,
            "resumed_from_step": start.step,
            "notices": [*end.notices, *notices],
        }
        write_whole(spec.notes / "summary.json", json.dumps(summary, indent=1) + "\n")
    if world_size > 1:
        distributed.barrier()


def be_deterministic() -> None:
    """Let torch take operations that give the same bits each time, and refuse those that do not."""
    torch.use_deterministic_algorithms(True)
    # Else torch fills what is yet to be written, so that whoever reads it too early is found out.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def starting_model(spec: RunSpec) -> tuple[TinyGPTV, Tokenizer]:
    """The model that the stage starts from, and its tokenizer."""
    stage = spec.stage
    backbones = load_backbones(spec.backbones, dtype_of(stage.precision))
    backbones.llm.leave_out(stage.without)
    model = TinyGPTV.from_backbones(backbones, stage.lora, stage.seed)
    if spec.init is not None:
        checkpoint = read_checkpoint(spec.init)
        check_norms(spec.init, checkpoint.form, stage)
        check_adapters(checkpoint.form.name, checkpoint.form.lora, stage)
        new_lora = stage.lora is not None and checkpoint.form.lora is None
        _load(spec, model, checkpoint.tensors, new_lora)
    if spec.options.compile:
        require_compiler(spec.options.device)
        compile_layers(model, spec.options.device)
    if spec.options.gradient_checkpointing:
        model.llm.recompute_layers()
    return model, backbones.tokenizer


def _load(spec: RunSpec, model: TinyGPTV, tensors: Mapping[str, torch.Tensor], new_lora: bool) -> None:
    try:
        load_trainable(model, tensors, new_lora=new_lora)
    except ValueError as error:
        raise ConfigError(f"{spec.init} is of another model than {spec.backbones}: {error}") from error


def parameters_of(engine: Engine) -> dict[str, torch.Tensor]:
    """What the engine has trained, by its name in a checkpoint. A call of all processes."""
    state = engine.state()
    return {name.removeprefix("parameter/"): state[name] for name in state if name.startswith("parameter/")}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the parts of `train` share."""

    spec: RunSpec
    engine: Engine
    sizes: ModelSizes
    steps: Steps
    rank: int
    world_size: int
    report: Progress

    @property
    def identity(self) -> str:
        """What a state belongs to. The paths are not in it: folders can be moved."""
        asked = {"stage": self.spec.stage, "prompts": self.spec.prompts, "seen": self.spec.seen}
        return sha256_of({**asked, "order": ORDER_VERSION})


def _start(run: _Run) -> Position:
    """Where the run goes on: restored from its newest state, or before the first step."""
    notices: list[str] = []
    state = load_state(run.spec.work, run.identity, notices.append)
    steps = gathered(state.position.step if state else 0, run.world_size)
    if len(set(steps)) > 1:
        raise ConfigError(
            f"the processes found states of different steps in {run.spec.work}: {', '.join(map(str, steps))}. "
            "It must be one folder that all machines see."
        )
    if run.rank == 0:
        drop_states_after(run.spec.work, steps[0])
        for notice in notices:
            LOGGER.warning("%s", notice)
    if state is None:
        loss_first = run.engine.mean_loss(run.steps.held_out())
        return Position(run=run.identity, step=0, seconds=0.0, loss_first=loss_first, notices=tuple(notices))
    run.engine.load_state(state.tensors)
    return replace(state.position, notices=(*state.position.notices, *notices))


def _last_loss(run: _Run) -> tuple[float | None, tuple[str, ...]]:
    """On held-out samples, and what a person should know of it: all steps were finite, so that the run ends well."""
    try:
        return run.engine.mean_loss(run.steps.held_out()), ()
    except NotFiniteError as error:
        LOGGER.warning("after the last step %s", error)
        return None, (f"after the last step {error}",)


def _loop(run: _Run, start: Position, saver: Saver) -> Position:
    """All steps from `start` on. The first process writes metrics, reports and saves states."""
    spec, options, total = run.spec, run.spec.options, run.spec.stage.schedule.steps
    metrics_logger = MetricsLogger(spec, run.engine, run.sizes, rank=run.rank, world_size=run.world_size, start=start)
    began, here = time.monotonic(), start
    read = metrics_logger.waited_for(batches(run.steps, start.step, options.loader_workers))
    for step, batch in enumerate(read, start=start.step):
        dataset, now = run.steps.order.dataset_at(step), rate(spec.stage.schedule, step)
        result = run.engine.step(batch, step=step, rate=now, dataset=dataset)
        metrics_logger.add(step + 1, dataset, batch, result)
        here = replace(start, step=step + 1, seconds=start.seconds + time.monotonic() - began)
        if line := metrics_logger.line(here, now):
            run.report(here.step, total, f"{words(line)}, {left(line, total)} left")
        saver.after(here.step, partial(_state, run.engine, metrics_logger, here))
    return here


def _state(engine: Engine, metrics_logger: MetricsLogger, here: Position) -> State:
    return State(tensors=engine.state(), position=metrics_logger.position(here))


def _log_progress(done: int, total: int, text: str) -> None:
    LOGGER.info("%d/%d %s", done, total, text)


def _status(error: Exception) -> int | None:
    """Tell of what ended a run, and how the command then ends; None of what nobody has words for."""
    match error:
        case StoppedError():
            LOGGER.warning("%s, with the same command.", error)
            return STOPPED
        case ConfigError() | FileNotFoundError():
            LOGGER.error("%s", error)
            return 2
        case OSError() | NotFiniteError():
            LOGGER.error("%s", error)
            return 1
        case RuntimeError() if READER_DIED in str(error):
            LOGGER.error("%s. If memory ran out, %s", str(error).partition("\n")[0], LESS_MEMORY)
            return 1
        case RuntimeError() if NO_SUCH_KERNEL in str(error):
            LOGGER.error("this device has no way to compute a step to the same bits each time: %s", error)
            return 1
        case _ if has_no_memory(error):
            LOGGER.error("memory ran out: %s\n  %s", error, LESS_MEMORY)
            return 1
        case _:
            return None


def _take_gpu(number: int) -> None:
    """Raises ConfigError where there is no such GPU."""
    if number >= (there := torch.cuda.device_count()):
        raise ConfigError(
            f"device is cuda, and a process here wants GPU {number} (of 0, 1, ...); torch finds {there} of them. "
            'What helps: fewer processes (torchrun --nproc-per-node), or the option "device": "cpu" in RUN.json'
        )
    torch.cuda.set_device(number)


def main(arguments: Sequence[str], training: Train = train) -> int:
    """Run `RUN.json` in this process, or as one of torchrun's.

    Returns:
        0; 1 when a file could not be read or written, a number is not finite, memory ran out or a process that reads
        ahead was killed; 2 for the user's mistake; or 143 when SIGTERM or SIGINT asked it to stop, which it does after
        the step at hand. torchrun waits for that half a minute.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(arguments) != 1:
        LOGGER.error("one argument is wanted, the path of RUN.json, as in: python -m tinygptv_core.train RUN.json")
        return 2
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        spec = read_spec(Path(arguments[0]))
        if spec.options.device == "cuda":
            _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        if world_size > 1:
            distributed.init_process_group("nccl" if spec.options.device == "cuda" else "gloo")
        with asked_by_signals() as asked_to_stop:
            training(spec, rank, world_size, _log_progress, asked_to_stop)
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        return status
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
