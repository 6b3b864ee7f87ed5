"""A lease that another machine took over while its holder was silent (suspended, or on a slow file system)."""

import json
import os
import time
from dataclasses import asdict

from tasks.lease import Holder, held, lease

ELSEWHERE = json.dumps(asdict(Holder(host="elsewhere", boot="b", pid=1, started=1)))
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
