"""Saving beside the steps, and the signals that ask to stop. Whole runs that stop are in test_train.py."""

import itertools
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.core.tiny_run import OPTIONS, STAGE, no_room
from tinygptv_core.training import saving
from tinygptv_core.training.saving import Saver, StoppedError, Writer, asked_by_signals, never
from tinygptv_core.training.states import Position, State, load_state

RUN = "r" * 64


def position(step: int) -> Position:
    return Position(run=RUN, step=step, seconds=1.5, loss_first=None)


def saved(folder):
    state = load_state(folder, RUN, pytest.fail)
    assert state is not None
    return state.position.step, {name: tensor.tolist() for name, tensor in state.tensors.items()}


def steps_in(folder) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.iterdir())


def test_a_state_is_that_of_the_moment_whatever_training_does_meanwhile(tmp_path):
    weights, moments = torch.ones(500, 1000), torch.tensor([5, 6])
    writer = Writer(tmp_path, keep=2)
    writer.write(position(1), {"a": weights})
    weights.fill_(2)
    writer.wait()
    assert saved(tmp_path)[1]["a"][499][999] == 1
    writer.write(position(2), {"a": weights[:1, :2].T, "b": moments})  # another shape, and one that was not there
    weights.fill_(3)
    moments.fill_(7)
    writer.close()
    assert saved(tmp_path) == (2, {"a": [[2], [2]], "b": [5, 6]})


def test_what_fails_in_the_background_is_raised_by_the_next_save_and_once(tmp_path):
    writer = Writer(tmp_path, keep=2)
    with no_room():
        writer.write(position(1), {"a": torch.ones(300)})
        with pytest.raises(OSError, match="state after step 1 could not be written to .*File too large"):
            writer.write(position(2), {"a": torch.ones(3)})
    writer.write(position(3), {"a": torch.ones(3)})
    writer.wait()
    assert steps_in(tmp_path) == [3]


def saver(folder, asked_to_stop=never, **options):
    spec = SimpleNamespace(stage=STAGE, work=folder, options=replace(OPTIONS, keep_states=9, **options))
    return Saver(spec, rank=0, world_size=1, asked_to_stop=asked_to_stop)  # pyright: ignore[reportArgumentType]


def state(step):
    return lambda: State(position=position(step), tensors={"a": torch.ones(300)})


def test_the_end_waits_for_what_is_being_written_and_tells_that_it_failed(tmp_path):
    with no_room(), pytest.raises(OSError, match="state after step 3 could not be written"):
        with saver(tmp_path) as one:
            one.after(3, state(3))


def test_what_ends_a_run_is_told_before_what_failed_in_the_background(tmp_path):
    with no_room(), pytest.raises(FloatingPointError, match="the loss"):
        with saver(tmp_path) as one:
            one.after(3, state(3))
            raise FloatingPointError("the loss is nan")


def test_it_saves_every_so_many_steps_and_by_the_clock_and_not_after_the_last(tmp_path, monkeypatch):
    """A step takes a second here: of 8 steps the clock saves after 2, 4 and 6, and every third are 3 and 6."""
    seconds = itertools.count()
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with saver(tmp_path, save_every_steps=3, save_every_seconds=2) as one:
        for step in range(1, 9):
            one.after(step, state(step))
    assert steps_in(tmp_path) == [2, 3, 4, 6]


def test_who_is_asked_to_stop_saves_first(tmp_path):
    asked = []
    with pytest.raises(StoppedError, match="tiny was asked to stop. It is saved and goes on from step 4"):
        with saver(tmp_path, lambda: bool(asked), save_every_steps=9) as one:
            one.after(3, state(3))
            asked.append("stop")
            one.after(4, state(4))
    assert steps_in(tmp_path) == [4]


def test_who_stops_does_not_say_that_it_is_saved_when_that_failed(tmp_path):
    with no_room(), pytest.raises(OSError, match="state after step 4 could not be written"):
        with saver(tmp_path, lambda: True) as one:
            one.after(4, state(4))


def test_after_the_last_step_a_run_ends_instead(tmp_path):
    with saver(tmp_path, lambda: True) as one:
        one.after(STAGE.schedule.steps, state(STAGE.schedule.steps))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_ends_nothing(number):
    before = signal.getsignal(number)
    with asked_by_signals() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
    assert signal.getsignal(number) == before
