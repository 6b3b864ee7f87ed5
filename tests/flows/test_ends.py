"""What a run that failed says of going on: so only where the same command can."""

import errno
from dataclasses import replace

import pytest

from flows.commands.run_commands import _failed
from tasks.build import DamagedError
from tasks.train import FailsAgainError, TrainingError, _fails_again
from tests.core.tiny_run import STAGE
from tests.flows.choices import CHOICE
from tinygptv_core.plain import ConfigError
from tinygptv_core.training.not_finite import loss_error

GOES_ON = "the same command goes on from here"


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (MemoryError(), True),
        (ConnectionResetError("the server went away"), True),
        (TrainingError("tiny failed: a training process was killed"), True),
        (TrainingError("CUDA out of memory"), True),
        (DamagedError("shards: cut"), True),
        (RuntimeError("hardly any picture could be had"), True),
        (FailsAgainError("the loss is nan"), False),
        (KeyError("no column of the recipe's"), False),
        (ZeroDivisionError(), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_only_what_passes_is_gone_on_with_by_the_same_command(tmp_path, capsys, error, goes_on):
    assert _failed(replace(CHOICE, home=tmp_path), error) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert (GOES_ON in last) == goes_on and ("would fail again; what was built stays" in last) != goes_on


def test_a_loss_that_is_not_finite_says_what_may_help():
    told = _fails_again(loss_error(float("nan"), "step 3 of tiny", None), STAGE)
    assert told is not None and told["kind"] == "certain"
    assert told["failure"].startswith("the loss is nan at step 3 of tiny")
    assert f"--set tiny.schedule.peak=RATE; it is {STAGE.schedule.peak:g}" in told["failure"]
    assert "--set tiny.schedule.warmup_steps=N" in told["failure"] and "--set tiny.clip_norm=X" in told["failure"]


def test_a_training_that_is_refused_is_a_mistake_and_an_accident_is_tried_again():
    assert _fails_again(ConfigError("no such file"), STAGE) == {"failure": "no such file", "kind": "mistake"}
    assert _fails_again(RuntimeError("the connection was lost"), STAGE) is None
