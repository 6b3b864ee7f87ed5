"""What a run that failed says of going on: so only where the same command can."""

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from flows.commands.run_commands import _failed
from tasks.sealed import DamagedError
from tasks.train import FailsAgainError, TrainingError, _fails_again
from tests.core.tiny_run import STAGE
from tests.flows.choices import CHOICE
from tinygptv_core.plain import ConfigError
from tinygptv_core.training.not_finite import held_out_error, loss_error

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


@pytest.mark.parametrize(
    ("precision", "told"),
    [
        ("float32", "look in the weights that it starts from"),
        ("float16", "look in the weights that it starts from, or in float16 (--set tiny.precision=float32)"),
    ],
)
def test_a_loss_that_is_not_finite_before_the_first_step_is_not_put_down_to_the_schedule(precision, told):
    error = held_out_error(float("nan"), "tiny", None)
    failure = f"the loss is nan at the held-out samples of tiny.\n  no step was taken yet: {told}"
    assert _fails_again(error, replace(STAGE, precision=precision)) == {"failure": failure, "kind": "certain"}


def test_a_training_that_is_refused_is_a_mistake_and_an_accident_is_tried_again():
    """What no user made and would come again is neither; and a full disk may have room the next time."""
    others = _fails_again(ValueError("the state has other parameters"), STAGE)
    assert others == {"failure": "the state has other parameters", "kind": "certain"}
    full = _fails_again(OSError(errno.ENOSPC, "No space left on device"), STAGE)
    assert full == {"failure": f"[Errno {errno.ENOSPC}] No space left on device", "kind": "shortage"}
    assert _fails_again(ConfigError("no such file"), STAGE) == {"failure": "no such file", "kind": "mistake"}
    assert _fails_again(RuntimeError("the connection was lost"), STAGE) is None


INTERRUPTED_IMPORT = """
import os, signal, sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "flows.commands.grammar":
            os.kill(os.getpid(), signal.{signal})
            time.sleep(5)
sys.meta_path.insert(0, Finder())
from flows.cli import main
sys.exit(main(["run", "--home", {home!r}]))
"""
LOST_EXCEPTION = """
import os, signal, sys, time
from types import SimpleNamespace
from flows.cli import main
from flows.commands import run_commands
class Called:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})
        time.sleep(5)
run_commands.prepare = lambda choice, writes: SimpleNamespace(planned=())
run_commands.use_up = lambda home: None
run_commands.start_prefect_server = lambda home: (Called(), lambda: None)[1]
run_commands.import_ahead = lambda *arguments: None
sys.modules["flows.walk"] = SimpleNamespace(run_pipeline=lambda choice, process: "REPORT")
sys.exit(main(["run", "--home", {home!r}]))
"""


SIGNAL_WHILE_A_THREAD_IMPORTS = """
import os, signal, sys, time
from threading import Thread
from types import SimpleNamespace
from flows.cli import main
from flows.commands import run_commands
from flows.run_environment import IMPORTS
def imports():
    time.sleep(1)
    os.kill(os.getpid(), signal.{signal})
    time.sleep(5)
run_commands.prepare = lambda choice, writes: SimpleNamespace(planned=())
run_commands.use_up = lambda home: None
run_commands.start_prefect_server = lambda home: lambda: None
run_commands.import_ahead = lambda *arguments: Thread(target=imports, name=IMPORTS, daemon=True).start()
sys.modules["flows.walk"] = SimpleNamespace(run_pipeline=lambda choice, process: print("begun") or time.sleep(5))
sys.exit(main(["run", "--home", {home!r}]))
"""
SIGNAL_AT_THE_END = """
import atexit, os, signal, sys, time
from types import SimpleNamespace
from flows.cli import main
from flows.commands import run_commands
def end():
    os.kill(os.getpid(), signal.{signal})
    time.sleep(5)
def start(home):
    atexit.register(end)
    return lambda: None
def run(choice, process):
    {does}
    return "REPORT"
run_commands.prepare = lambda choice, writes: SimpleNamespace(planned=())
run_commands.use_up = run_commands.import_ahead = lambda *arguments: None
run_commands.start_prefect_server = start
sys.modules["flows.walk"] = SimpleNamespace(run_pipeline=run)
sys.exit(main(["run", "--home", {home!r}]))
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("does", "status", "out", "said"),
    [
        ("pass", 0, "REPORT\n", ""),
        ("raise KeyboardInterrupt", 1, "", "tinygptv: stopped. The same command goes on from here.\n"),
        ("raise RuntimeError('lost')", 1, "", "tinygptv: the run failed: lost\n"),
        ("raise run_commands.ConfigError('no such file')", 2, "", "tinygptv: no such file\n"),
        ("run_commands.cut_short_the_end(0); raise KeyboardInterrupt", 1, "", "tinygptv: stopped."),
    ],
    ids=["done", "stopped", "failed", "mistaken", "stopped when it was done"],
)
def test_a_signal_while_a_command_ends_cuts_that_short_and_changes_nothing(tmp_path, number, does, status, out, said):
    """Prefect's server may take seconds to end, in which an exception would be told with its trace."""
    code = SIGNAL_AT_THE_END.format(signal=number, home=str(tmp_path), does=does)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.startswith(said) and "Traceback" not in done.stderr


BEFORE_IT_BEGINS = pytest.mark.parametrize(
    "code",
    [INTERRUPTED_IMPORT, LOST_EXCEPTION, SIGNAL_WHILE_A_THREAD_IMPORTS],
    ids=["while it imports", "where none is raised", "while a thread imports"],
)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@BEFORE_IT_BEGINS
def test_a_command_that_is_stopped_before_it_has_begun_says_so_in_one_line(tmp_path, code, number):
    """Where Python calls back, an exception would be told with its trace, and lost: the command would go on."""
    code = code.format(signal=number, home=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tinygptv: stopped. The same command goes on from here.\n"


PRINTING = """
import sys
from types import SimpleNamespace
from flows.cli import main
from flows.commands import run_commands
from flows.terminal import say
def run(choice, process):
    say("first")
    print("second", flush=True)
    {does}
    (choice.home / "done").touch()
    return "REPORT"
run_commands.prepare = lambda choice, writes: SimpleNamespace(planned=())
run_commands.use_up = run_commands.import_ahead = lambda *arguments: None
run_commands.start_prefect_server = lambda home: lambda: None
sys.modules["flows.walk"] = SimpleNamespace(run_pipeline=run)
sys.exit(main(["run", "--home", {home!r}]))
"""


@contextmanager
def unread():
    """Where something can be written whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def status_of(code, streams):
    """How the code ends where nobody reads these of its streams."""
    with unread() as pipe:
        others = {"stdout", "stderr"} - set(streams)
        to = dict.fromkeys(streams, pipe) | dict.fromkeys(others, subprocess.DEVNULL)
        return subprocess.run([sys.executable, "-c", code], **to, timeout=120).returncode


ENDS = pytest.mark.parametrize(
    ("does", "status"),
    [
        ("pass", 0),
        ("raise KeyboardInterrupt", 1),
        ("raise RuntimeError('lost')", 1),
        ("raise run_commands.ConfigError('no such file')", 2),
    ],
    ids=["done", "stopped", "failed", "mistaken"],
)


@ENDS
@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")], ids=" and ".join)
def test_a_run_that_nobody_reads_any_more_goes_on_and_ends_with_its_status(tmp_path, does, status, streams):
    """As after `| head`, or after Ctrl-C, which ends `| tee` too."""
    assert status_of(PRINTING.format(does=does, home=str(tmp_path)), streams) == status
    assert (tmp_path / "done").exists() == (status == 0)
    assert (tmp_path / "failed.txt").exists() == ("lost" in does)


@ENDS
def test_so_does_a_run_whose_streams_were_closed_before_it_began(tmp_path, does, status):
    code = PRINTING.format(does=does, home=str(tmp_path))
    closed = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', sys.executable, "-c", code]
    assert subprocess.run(closed).returncode == status
    assert (tmp_path / "done").exists() == (status == 0)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@BEFORE_IT_BEGINS
def test_a_command_that_is_stopped_before_it_has_begun_ends_also_where_nobody_reads_that(tmp_path, code, number):
    assert status_of(code.format(signal=number, home=str(tmp_path)), ["stderr"]) == 1


def test_a_list_without_end_ends_where_nobody_reads_it_any_more():
    code = """
import itertools, sys
from flows.commands.store_commands import _print_urls
from flows.output import outlast_readers
outlast_readers()
sys.exit(_print_urls(map(str, itertools.count()), []))
"""
    assert status_of(code, ["stdout"]) == 0
