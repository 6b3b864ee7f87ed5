"""A disk that becomes full, for real: what is said, and that the same goes on once there is room."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.shortages import has_no_room, what_is_full
from tasks.train import _fails_again
from tests.core.tiny_run import STAGE
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


def test_memory_that_cannot_be_had_is_told_with_the_options_that_take_less():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46, dtype=torch.uint8)  # 70 TB
    told = _fails_again(caught.value, STAGE)
    assert told is not None and told["kind"] == "shortage" and told["failure"].startswith("memory ran out: ")
    assert "--option micro_batch=1" in told["failure"] and "gradient_checkpointing=true" in told["failure"]
