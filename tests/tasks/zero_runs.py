"""One of two processes that train one run after another, in the order of `runs.json` of a folder.

python -m tests.tasks.zero_runs FOLDER RANK WORLD_SIZE
"""

import json
import logging
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as distributed

from benchmarks.engines import joined
from tasks.zero import ZeroEngine, train
from tests.core import tiny
from tests.core.test_train import quiet
from tinygptv_core.loader import Steps
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import read_spec
from tinygptv_core.train import starting_model
from tinygptv_core.training.ddp import DDPEngine
from tinygptv_core.training.not_finite import NotFiniteError

WORLD_SIZE = 2


def run(path: Path, begun: str | None, rank: int) -> None:
    """Train; `begun` is the state that the run goes on from, as if another had been killed there."""
    spec = read_spec(path)
    if begun and rank == 0:
        spec.work.mkdir(parents=True)
        shutil.copy(next(Path(begun).glob("state-000000003-*")), spec.work)
    distributed.barrier()
    try:
        train(spec, rank, WORLD_SIZE, quiet)
    except NotFiniteError as error:
        (path.parent / f"error-{rank}.txt").write_text(str(error))


def step_with_an_infinite_gradient(path: Path, rank: int) -> None:
    """A step in which the first process alone finds one, where its layer begins; what it says is kept beside the run.

    It comes to the norm there, and then to the four tensors of the projections. The same of a held-out loss that is no
    number.
    """
    spec = read_spec(path)
    model, tokenizer = starting_model(spec)
    make = DDPEngine if spec.options.engine == "ddp" else ZeroEngine
    engine = make(model, spec.stage, spec.options, rank=rank, world_size=WORLD_SIZE)
    steps = Steps(spec, tokenizer, rank=rank, world_size=WORLD_SIZE)
    if rank == 0:
        model.get_submodule("llm.model.layers.0.input_layernorm").register_forward_hook(tiny.infinite)
    before = {name: tensor.clone() for name, tensor in engine.state().items()}
    try:
        engine.step(steps[0], step=0, rate=1e-2, dataset="shapes")
    except NotFiniteError as error:
        after = engine.state()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        (path.parent / f"infinite-{rank}.txt").write_text(str(error))
    if rank == 0:
        layer = model.get_submodule("llm.model.layers.0.input_layernorm")
        layer.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))
    try:
        engine.mean_loss(steps.held_out())
    except NotFiniteError as error:
        (path.parent / f"held-out-{rank}.txt").write_text(str(error))
    if isinstance(engine, ZeroEngine):
        engine.close()


def begin_apart(path: Path, rank: int) -> None:
    """Train in a folder of states of one's own, as on machines that do not see the same; only the first has some."""
    spec = read_spec(path)
    try:
        train(replace(spec, work=spec.work if rank == 0 else path.parent / "apart"), rank, WORLD_SIZE, quiet)
    except ConfigError as error:
        (path.parent / f"apart-{rank}.txt").write_text(str(error))


def main(folder: Path, rank: int, world_size: int) -> None:
    logging.disable()
    with joined(folder, rank, world_size):
        for path, begun in json.loads((folder / "runs.json").read_text()):
            run(Path(path), begun, rank)
        for engine in ("ddp", "zero2", "zero3", "slow-zero3"):
            step_with_an_infinite_gradient(folder / engine / "RUN.json", rank)
        begin_apart(folder / "ddp" / "RUN.json", rank)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    # All is written by now. A thread of gloo that is at work when Python ends is unwound and aborts the process
    # ("terminate called without an active exception"), and the first DDP keeps its group's threads when that is given
    # back (torch 2.13).
    os._exit(0)
