"""The states that a killed run goes on from, as safetensors: reading one runs no code of its writer."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinygptv_core.artifact import sha256_of_file
from tinygptv_core.plain import ConfigError, from_plain, plain
from tinygptv_core.training.monitor import MonitorState

MARK = ".damaged"


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of a step, and the data set that it was on."""

    dataset: str
    loss: float


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands.

    Attributes:
        run: SHA-256 of what is computed; a state serves that run alone.
        step: finished steps.
        seconds: spent in training so far, in this process and those before it.
        loss_first: the mean loss on held-out samples before the first step; None when none are held out.
        notices: what a person should know of how the run came here.
        unlogged: the losses of the last steps, of which no line has told yet: the next one is about them too.
        watched: what the lines so far said is usual.
    """

    run: str
    step: int
    seconds: float
    loss_first: float | None
    notices: tuple[str, ...] = ()
    unlogged: tuple[StepLoss, ...] = ()
    watched: MonitorState = field(default_factory=MonitorState)


@dataclass(frozen=True, kw_only=True)
class State:
    """All that a killed run needs to go on to the same bits; `tensors` is `Engine.state`'s.

    Those are the parameters, AdamW's moments and its count of steps for each, gradients that wait for their turn where
    the stage accumulates as published, and in float16 the scaler's scale and how long that has held. What else bears on
    a step is a function of its number: the samples, their prompts and texts (`loader.py`), the rate (`schedule.py`),
    and every random number, for which torch's generators are seeded anew in each step (`ddp.py`). Nothing draws from
    Python's or numpy's own generators.
    """

    position: Position
    tensors: Mapping[str, Tensor]


def save_state(folder: Path, state: State, keep: int) -> None:
    """Write `state` durably, whole or not at all, and drop all but the newest `keep`.

    The name carries the step and the SHA-256 of the bytes, so that a rename is the only commit.

    Raises:
        OSError: it could not be written; names the folder. The states before it stay.
    """
    writing = folder / "writing"  # what a kill leaves in there, and safetensors' own drafts, the next one removes
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        draft = writing / "state"
        save_file(_storable(state.tensors), draft, metadata={"position": json.dumps(plain(state.position))})
        _sync(draft)
        draft.rename(folder / f"state-{state.position.step:09d}-{sha256_of_file(draft)}.safetensors")
        _sync(folder)
    except (OSError, SafetensorError) as error:
        step = f"the state after step {state.position.step}"
        raise OSError(f"{step} could not be written to {folder}: {error}. Those before it stay.") from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    for old in (*_states(folder)[keep:], *_marks(folder)):
        old.unlink()


def load_state(folder: Path, run: str, notice: Callable[[str], None]) -> State | None:
    """The newest undamaged state in `folder`; None when there is none.

    A damaged one is told to `notice`, again where a run was killed before it had saved one after it.

    Raises:
        ConfigError: the folder holds the states of another run.
    """
    damaged = _marks(folder)
    for path in _states(folder):
        if sha256_of_file(path) != path.stem.split("-")[2]:
            damaged.append(path)
            continue
        with safe_open(path, framework="pt") as file:
            position = from_plain(Position, json.loads(file.metadata()["position"]), str(path))
            if position.run != run:
                raise ConfigError(
                    f"{folder} holds the state of another run ({position.run[:12]}, this is {run[:12]}). "
                    "Give this run a work folder of its own, or remove that one."
                )
            _tell(damaged, f"went on from step {position.step}", notice)
            return State(position=position, tensors={name: file.get_tensor(name) for name in file.keys()})
    _tell(damaged, "began anew", notice)
    return None


def _tell(damaged: list[Path], what: str, notice: Callable[[str], None]) -> None:
    for path in damaged:
        notice(f"the state after step {_step_of(path)} was damaged (its bytes are not those its name says): {what}")


def drop_states_after(folder: Path, step: int) -> None:
    """Remove the states that `load_state` passed over, so that they are not counted among those that are kept.

    Their names stay until the next one is saved.
    """
    for path in _states(folder):
        if _step_of(path) > step:
            mark = path.rename(path.with_suffix(MARK))  # at once, so that a kill leaves it told of once
            os.truncate(mark, 0)


def _step_of(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.safetensors"), reverse=True)


def _marks(folder: Path) -> list[Path]:
    """Of states that were damaged."""
    return sorted(folder.glob(f"state-*{MARK}"), reverse=True)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
