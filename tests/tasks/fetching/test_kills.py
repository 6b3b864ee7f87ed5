"""A fetch that is killed again and again ends as one that nobody disturbed.

Two kills of a fetch of 200 pictures by one process; with `--kills 20` (`make kills`) twenty, of 2,000 by two.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tasks.tables import LedgerRow, read_counts, read_table
from tests.tasks.fetches import SETTINGS, step_folders, table_of
from tests.tasks.web import Handler, picture, serving
from tinygptv_core.artifact import digest_of, members_of

PICTURES_PER_KILL = 100
# A picture may take long on a machine that is busy.
LIMITS = replace(SETTINGS, timeout_seconds=4, total_seconds=8, samples_per_shard=20)
FATES = {0: "http_404", 1: "http_500", 2: "truncated", 3: "undecodable", 4: "ok"}
"""Of each fifth picture, by its number among them; the last answers the second time that it is asked."""
PATIENCE_SECONDS = 600


class Faulty(Handler):
    pictures = tuple(picture("JPEG", seed) for seed in range(7))

    def respond(self, name):
        number = int(name)
        fault = FATES[number // 5 % 5] if number % 5 == 0 else None
        if fault == "http_404":
            return self.answer(404, b"")
        if fault == "http_500" or (fault == "ok" and self.asked[name] == 1):
            return self.answer(500, b"")
        data = b"<html>" if fault == "undecodable" else self.pictures[number % 7]
        return self.answer(200, data[:-90] if fault == "truncated" else data)


SCRIPT = """
import sys
from pathlib import Path
from tests.tasks.fetches import fetch, step_folders
from tests.tasks.fetching.test_kills import LIMITS, settings
if __name__ == "__main__":
    table, folder, num_pictures, processes = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
    fetch(table, settings(num_pictures), step_folders(folder), wanted=num_pictures * 7 // 10, processes=processes)
"""


def settings(num_pictures):
    """Of many pictures four segments, fetched as three and then one for what these lack; of few one."""
    return replace(LIMITS, segment_rows=num_pictures // 4 if num_pictures > 1_000 else num_pictures)


def started(*arguments):
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[3], start_new_session=True)


def killed_until_done(seconds, chance, arguments):
    """Start the fetch until it ends by itself, killing its process group at random moments; how often it was."""
    kills = 0
    while True:
        with started(*arguments) as runner:
            try:
                assert runner.wait(chance.uniform(0, seconds) if seconds else PATIENCE_SECONDS) == 0
            except subprocess.TimeoutExpired:
                os.killpg(runner.pid, signal.SIGKILL)
                kills += 1
            else:
                return kills


@pytest.mark.timeout(3600)
def test_a_fetch_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path, request):
    wanted_kills = request.config.getoption("--kills")
    sizes = (PICTURES_PER_KILL * wanted_kills, 1 + (wanted_kills > 3))
    num_pictures, _ = sizes
    with serving(Faulty) as (handler, url):
        table = table_of(tmp_path / "table", "url", [f"{url}/{number}" for number in range(num_pictures)])
        before = time.monotonic()
        assert killed_until_done(0, random.Random(0), (table, tmp_path / "calm", *sizes)) == 0
        seconds = time.monotonic() - before
        calm, kills, homes = step_folders(tmp_path / "calm"), 0, 0
        while kills < wanted_kills:
            place, homes = step_folders(tmp_path / f"killed-{homes}"), homes + 1
            handler.asked.clear()
            kills += killed_until_done(seconds, random.Random(homes), (table, place.out.parent, *sizes))
            assert digest_of(members_of(place.out)) == digest_of(members_of(calm.out))
    assert_it_is_what_was_wanted(calm.out, num_pictures)


def assert_it_is_what_was_wanted(shards, num_pictures):
    counts, ledger = read_counts(shards), list(read_table(shards / "ledger.parquet", LedgerRow))
    assert counts["kept"] == num_pictures * 84 // 100
    assert counts["rows"] == num_pictures == len(ledger)
    for row in ledger:
        number = int(row.key)
        assert row.fate == (FATES[number // 5 % 5] if number % 5 == 0 else "ok")


class Slow(Handler):
    def respond(self, name):
        time.sleep(0.2)
        self.answer(200, picture("JPEG", int(name)))


def test_a_worker_that_the_system_kills_costs_no_more_than_its_shard(tmp_path):
    """Forty pictures in shards of twenty: whoever kills a worker in the middle of one has that one fetched again."""
    with serving(Slow) as (handler, url):
        table = table_of(tmp_path / "table", "url", [f"{url}/{number}" for number in range(40)])
        with started(table, tmp_path / "site", 160, 2) as runner:
            while not handler.asked:
                assert runner.poll() is None
                time.sleep(0.05)
            everyone = psutil.Process(runner.pid).children(recursive=True)
            next(one for one in everyone if "--multiprocessing-fork" in one.cmdline()).kill()
            assert runner.wait(PATIENCE_SECONDS) == 0
    assert read_counts(step_folders(tmp_path / "site").out) == {"rows": 40, "kept": 40, "dropped": {}}
    assert handler.asked.total() > 40
