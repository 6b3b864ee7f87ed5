"""What goes wrong around a run: exit status, one message, no damage, and the next run goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HERE, new_home
from failing_home import DATA

from tests.tasks.test_full_disk import OWN_MOUNTS, needs_mounts


def on_own_disks(what, folder):
    command = [*OWN_MOUNTS, sys.executable, str(HERE / "failing_home.py"), what, str(folder)]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """The reports of two commands that were begun together on a fresh home, and what they said."""
    home = new_home(tmp_path_factory.mktemp("both"))
    both = [home.start(*DATA), home.start(*DATA)]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    return [json.loads(Path(out.splitlines()[-1]).read_text()) for out, _ in told], [said for _, said in told]


def artifacts(report):
    return {step["step"]: step["artifact"] for step in report["steps"]}


def test_two_runs_on_one_home_build_nothing_twice_and_no_database_is_locked(at_once):
    (one, other), said = at_once
    assert artifacts(one) == artifacts(other)
    built = [step["step"] for report in (one, other) for step in report["steps"] if step["action"] == "build"]
    assert sorted(built) == sorted(artifacts(one))
    assert not any("locked" in text or "Traceback" in text for text in said)


@pytest.mark.long
@needs_mounts
def test_on_a_disk_that_is_full_it_says_which_and_with_room_it_ends_as_elsewhere(tmp_path, at_once):
    *failed, (status, said, made) = on_own_disks("small", tmp_path)
    for failure, text, _ in failed:
        assert failure == 1 and "Traceback" not in text
        assert f"no space left on the file system at {tmp_path}/home, which holds" in text, text
        assert "the same command goes on from here" in text
    assert ["built  scenes_web/filter" in text for _, text, _ in failed] == [False, True]
    assert status == 0, said
    assert "reused scenes_web/filter" in said and "built  scenes_web/fetch" in said
    assert made == artifacts(at_once[0][0])


@needs_mounts
def test_a_store_that_may_not_be_written_to_is_refused_before_anything_is_written(tmp_path):
    (status, said, _), left = on_own_disks("read_only", tmp_path)
    assert status == 2 and said.count("\n") == 2
    assert said.startswith(
        f"tinygptv: store/ of the home {tmp_path}/home/store cannot be written to (Read-only file system)"
    )
    assert left == ["store"]
