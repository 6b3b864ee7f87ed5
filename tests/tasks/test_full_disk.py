"""A disk that becomes full, for real: what is said, and that the same goes on once there is room."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.shortages import has_no_room, num_oom_kills, what_is_full, why_workers_ended
from tinygptv_core.shortage import has_no_memory

OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]
needs_mounts = pytest.mark.skipif(
    subprocess.run([*OWN_MOUNTS, "true"], capture_output=True, check=False).returncode != 0,
    reason="this system lets nobody mount a small disk of his own",
)


@needs_mounts
@pytest.mark.parametrize("what", ["seal", "state", "mlflow"])
def test_on_a_full_disk_it_fails_says_so_and_goes_on_when_there_is_room(what, tmp_path):
    command = [*OWN_MOUNTS, sys.executable, "-m", "tests.tasks.small_disk", what, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("MLflow at" in done.stdout) == (what == "mlflow")


def test_the_file_system_that_is_full_is_named():
    with pytest.raises(OSError) as caught:
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    assert caught.value.errno == errno.ENOSPC and has_no_room(caught.value)
    caught.value.filename = "/proc/self/nothing/is/here"
    assert "no space left on the file system at /proc, which holds /proc/" in what_is_full(caught.value, [])


def test_an_error_of_another_kind_is_no_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "nothing").read_text()
    assert not has_no_room(caught.value) and not has_no_memory(caught.value)
    assert what_is_full(caught.value, [tmp_path]) is None


def test_what_caused_an_error_is_found_behind_it():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the shard was not written") from error
    except RuntimeError as error:
        assert has_no_room(error)


GREEDY = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from tests.core.tiny_run import STAGE, tiny_spec
from tasks.train import _fails_again
from tinygptv_core.stages import Share
from tinygptv_core.train import train
stage = replace(STAGE, mix={"words": Share(weight=1, batch=20_000)})
spec = tiny_spec(Path(sys.argv[1]), stage=stage)
import torch
torch.zeros(8, 8, requires_grad=True).mm(torch.zeros(8, 8)).sum().backward()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)
try:
    train(spec, 0, 1, lambda done, total, text: None)
except Exception as error:
    print(_fails_again(error))
"""


def test_memory_that_cannot_be_had_is_told_with_the_options_that_take_less(tmp_path):
    done = subprocess.run([sys.executable, "-c", GREEDY, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("memory ran out: "), done.stdout + done.stderr[-2000:]
    assert "--option micro_batch=1" in done.stdout and "gradient_checkpointing=true" in done.stdout


def test_the_gpus_own_error_is_one_of_memory():
    import torch

    assert has_no_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))


def test_workers_that_died_without_a_word_most_likely_ran_out_of_memory():
    told = "The actor died unexpectedly. (1) The process is killed by SIGKILL by OOM killer due to high memory usage."
    assert "most likely memory ran out" in why_workers_ended(told, oom_kills=0)
    assert why_workers_ended(told, oom_kills=1).startswith("the system killed some process here because memory ran out")
    assert why_workers_ended("ValueError: no", oom_kills=0) == "ValueError: no"


def test_what_others_on_the_machine_were_killed_for_is_not_counted_where_the_own_group_counts(tmp_path):
    """The machine has killed 7 processes, 2 of them of this control group."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    assert num_oom_kills(proc, groups) == 0
    (proc / "self").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 100\noom_kill 7\n")
    assert num_oom_kills(proc, groups) == 7
    (proc / "self" / "cgroup").write_text("1:cpu:/other\n0::/a/b\n")
    assert num_oom_kills(proc, groups) == 7
    (groups / "a" / "b").mkdir(parents=True)
    (groups / "a" / "b" / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert num_oom_kills(proc, groups) == 2
