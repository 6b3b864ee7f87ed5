"""Leases whose holder died, fell silent (suspended, on a slow file system) or lost one; and locks that are missing."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from tasks.lease import SILENT_SECONDS, UNKNOWN, Holder, held, in_use, is_alive, lease, myself, unless_in_use

ELSEWHERE = json.dumps(asdict(Holder(host="elsewhere", boot="b", pid=1, started=1)))
OF_ANOTHER_BOOT = replace(myself(), boot="b")
LONG_AGO = 1.0


def nobody(text):
    raise AssertionError(text)


def wait_until(condition):
    ends = time.monotonic() + 10
    while not condition() and time.monotonic() < ends:
        time.sleep(0.005)
    assert condition()


def test_who_leaves_does_not_remove_what_another_took_over(tmp_path):
    path = tmp_path / "key"
    with lease(path, nobody):
        path.unlink()
        path.write_text(ELSEWHERE)
    assert path.read_text() == ELSEWHERE and str(held(path)) == "process 1 on elsewhere"
    path.unlink()
    with lease(path, nobody):
        path.unlink()
    assert not list(tmp_path.iterdir())


def test_the_heart_goes_on_for_ones_own_lease_and_not_for_anothers(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.lease.HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "key"
    with lease(path, nobody):
        mine = path.read_text()
        path.unlink()
        time.sleep(0.05)  # beats meet no file
        path.write_text(ELSEWHERE)
        os.utime(path, (LONG_AGO, LONG_AGO))
        time.sleep(0.05)  # and another's
        assert path.stat().st_mtime == LONG_AGO
        path.write_text(mine)
        os.utime(path, (LONG_AGO, LONG_AGO))
        wait_until(lambda: path.stat().st_mtime > LONG_AGO)
    assert not path.exists()


def be_silent(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize(
    ("text", "holder"),
    [
        (ELSEWHERE, Holder(host="elsewhere", boot="b", pid=1, started=1)),
        ("", UNKNOWN),
        (json.dumps(asdict(OF_ANOTHER_BOOT)), OF_ANOTHER_BOOT),
    ],
    ids=["another machine", "empty", "before this boot"],
)
def test_a_lease_of_which_nobody_here_can_tell_is_taken_over_once_it_was_silent(tmp_path, text, holder):
    path = tmp_path / "key"
    path.write_text(text)
    be_silent(path, SILENT_SECONDS - 20)
    assert held(path) == holder
    be_silent(path, SILENT_SECONDS + 1)
    assert held(path) is None
    with lease(path, nobody) as is_ours:
        assert is_ours() and held(path) == myself()


def test_a_lease_whose_process_has_its_number_from_another_is_free_at_once(tmp_path):
    path = tmp_path / "key"
    path.write_text(json.dumps(asdict(replace(myself(), started=1))))
    assert held(path) is None


def test_a_holder_is_alive_until_its_process_ends_or_its_machine_starts_anew():
    """Ended is also one whose parent has not asked yet how; and another process with its number is another."""
    assert is_alive(Holder(host="elsewhere", boot="b", pid=1, started=1))
    assert not is_alive(OF_ANOTHER_BOOT) and not is_alive(replace(myself(), started=1))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        holder = myself(process.pid)
        assert is_alive(holder)
        process.stdin.write(b"\n")
        process.stdin.close()
        wait_until(lambda: not is_alive(holder))


def test_where_a_file_system_has_no_locks_runs_go_on_and_nothing_is_cleaned(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with in_use(tmp_path / "in-use", nobody), unless_in_use(tmp_path / "in-use") as is_alone:
        assert not is_alone
