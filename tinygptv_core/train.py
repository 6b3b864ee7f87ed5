"""One stage of training, from `RUN.json` to a checkpoint; killed at any moment, it goes on where it was.

python -m tinygptv_core.train RUN.json
torchrun --nproc-per-node 2 -m tinygptv_core.train RUN.json
"""

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from tinygptv_core.checkpoint import (
    Position,
    State,
    check_norms,
    load_state,
    read_checkpoint,
    save_state,
    write_checkpoint,
)
from tinygptv_core.engine import DTYPES, DDPEngine, Engine, StepResult
from tinygptv_core.loader import ORDER_VERSION, Steps, batches
from tinygptv_core.metrics import Metrics, replace_text, words
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError, sha256_of
from tinygptv_core.prompt import Tokenizer
from tinygptv_core.run import RunSpec, read_spec
from tinygptv_core.schedule import rate
from tinygptv_core.trainable import load_trainable
from tinygptv_core.weights import load_backbones

LOGGER = logging.getLogger(__name__)

Report = Callable[[int, int, str], None]
"""(finished steps, all steps, words about it)."""


def train(spec: RunSpec, rank: int, world_size: int, report: Report) -> None:
    """Train `spec.stage` and write its checkpoint to `spec.out`, `metrics.jsonl` and `summary.json` to `spec.notes`.

    With more than one process torch's default process group must be there; each process calls this.
    A run that was killed goes on from the newest state in `spec.work`, with the bits it would have had.

    Raises:
        ConfigError: a file that `spec` names is missing or damaged, a data set is empty, or `spec.work`
            holds another run.
        NotFiniteError: the loss or a gradient is not finite; the states saved before it stay.
    """
    torch.set_num_threads(spec.options.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    _forget_peak_memory(spec.options.device)
    missing = sorted(spec.stage.mix.keys() - (spec.data.keys() & spec.prompts.keys()))
    if missing:
        raise ConfigError(f"{spec.stage.name} draws from {', '.join(missing)}, for which data or prompts has nothing")
    model, tokenizer = starting_model(spec)
    engine = DDPEngine(model, spec.stage, spec.options, rank=rank, world_size=world_size)
    steps = Steps(spec, tokenizer, rank=rank, world_size=world_size)
    run = _Run(spec=spec, engine=engine, steps=steps, rank=rank, world_size=world_size, report=report)
    start = _start(run)
    end = _loop(run, start)
    loss_last = engine.mean_loss(steps.held_out())
    peak_memory_bytes = _most(_memory_bytes(spec.options.device), world_size)
    if rank == 0:
        write_checkpoint(spec.out, parameters_of(engine), spec.stage)
        samples = sum(spec.stage.mix[steps.order.dataset_at(step)].batch for step in range(end.step))
        summary = {
            "steps": end.step,
            "loss_first": end.loss_first,
            "loss_last": loss_last,
            "seconds": end.seconds,
            "samples_per_second": samples / end.seconds,
            "peak_memory_bytes": peak_memory_bytes,
            "world_size": world_size,
            "resumed_from_step": start.step,
        }
        replace_text(spec.notes / "summary.json", json.dumps(summary, indent=1) + "\n")
    if world_size > 1:
        distributed.barrier()


def starting_model(spec: RunSpec) -> tuple[TinyGPTV, Tokenizer]:
    """The model that the stage starts from, and its tokenizer."""
    stage = spec.stage
    backbones = load_backbones(spec.backbones, DTYPES[stage.precision])
    backbones.llm.leave_out(stage.without)
    model = TinyGPTV.from_backbones(backbones, stage.lora, stage.seed)
    if spec.init is not None:
        checkpoint = read_checkpoint(spec.init)
        check_norms(spec.init, checkpoint.form, stage)
        new_lora = stage.lora is not None and checkpoint.form.lora is None
        load_trainable(model, checkpoint.tensors, new_lora=new_lora)
    if spec.options.gradient_checkpointing:
        model.llm.recompute_layers()
    return model, backbones.tokenizer


def parameters_of(engine: Engine) -> dict[str, torch.Tensor]:
    """What the engine has trained, by its name in a checkpoint."""
    state = engine.state()
    return {name.removeprefix("parameter/"): state[name] for name in state if name.startswith("parameter/")}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the parts of `train` share."""

    spec: RunSpec
    engine: Engine
    steps: Steps
    rank: int
    world_size: int
    report: Report

    @property
    def identity(self) -> str:
        """What a state belongs to. The paths are not in it: folders can be moved."""
        asked = {"stage": self.spec.stage, "prompts": self.spec.prompts, "seen": self.spec.seen}
        return sha256_of({**asked, "order": ORDER_VERSION})


def _start(run: _Run) -> Position:
    """Where the run goes on: restored from its newest state, or before the first step."""
    state = load_state(run.spec.work, run.identity)
    if state is None:
        loss_first = run.engine.mean_loss(run.steps.held_out())
        return Position(run=run.identity, step=0, seconds=0.0, loss_first=loss_first)
    run.engine.load_state(state.tensors)
    return state.position


def _loop(run: _Run, start: Position) -> Position:
    """All steps from `start` on. The first process writes metrics, reports and saves states."""
    spec, options, total = run.spec, run.spec.options, run.spec.stage.schedule.steps
    metrics = Metrics(spec.notes / "metrics.jsonl", after_step=start.step) if run.rank == 0 else None
    began, samples, logged = time.monotonic(), 0, start
    here = start
    for step, batch in enumerate(batches(run.steps, start.step, options.loader_workers), start=start.step):
        dataset, now = run.steps.order.dataset_at(step), rate(spec.stage.schedule, step)
        result = run.engine.step(batch, step=step, rate=now, dataset=dataset)
        samples += spec.stage.mix[dataset].batch
        seconds = start.seconds + time.monotonic() - began
        here = Position(run=start.run, step=step + 1, seconds=seconds, loss_first=start.loss_first)
        if metrics is None:
            continue
        if here.step % options.log_every_steps == 0 or here.step == total:
            speed = samples / (here.seconds - logged.seconds)
            line = _line(result, here, now, speed, options.device)
            metrics.write(line)
            run.report(here.step, total, words(line, total))
            samples, logged = 0, here
        if here.step % options.save_every_steps == 0 and here.step < total:
            save_state(spec.work, State(position=here, tensors=run.engine.state()))
    return here


def _line(result: StepResult, here: Position, now: float, speed: float, device: str) -> dict[str, Any]:
    return {
        "step": here.step,
        "loss": result.loss,
        "rate": now,
        "gradient_norm": result.gradient_norm,
        "samples_per_second": speed,
        "memory_bytes": _memory_bytes(device),
        "seconds": here.seconds,
    }


def _forget_peak_memory(device: str) -> None:
    """Let `_memory_bytes` speak of this run alone, in a process that has had others before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):  # not on every system
        Path("/proc/self/clear_refs").write_text("5")


def _memory_bytes(device: str) -> int:
    """The most memory that this process has held: of the GPU, or of the machine where there is none."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _most(value: int, world_size: int) -> int:
    if world_size == 1:
        return value
    values: list[int] = [0] * world_size
    distributed.all_gather_object(values, value)
    return max(values)


def main(arguments: Sequence[str]) -> int:
    """Run `RUN.json` in this process, or as one of torchrun's. Returns 0, or 2 for the user's mistake."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(arguments) != 1:
        LOGGER.error("one argument is wanted, the path of RUN.json, as in: python -m tinygptv_core.train RUN.json")
        return 2
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        spec = read_spec(Path(arguments[0]))
        if spec.options.device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if world_size > 1:
            distributed.init_process_group("nccl" if spec.options.device == "cuda" else "gloo")
        train(spec, rank, world_size, lambda done, total, text: LOGGER.info("%d/%d %s", done, total, text))
    except (ConfigError, FileNotFoundError) as error:
        LOGGER.error("%s", error)
        return 2
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
