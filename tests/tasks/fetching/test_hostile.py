"""A server that means harm: every answer of its is a counted drop, at bounded cost, and leads nowhere else."""

import gzip
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.tables import LedgerRow, read_counts, read_table
from tests.tasks.fetches import SETTINGS, step_folders, table_of
from tests.tasks.web import Handler, picture, serving

LIMITS = replace(SETTINGS, timeout_seconds=2, total_seconds=3, max_bytes=200_000, samples_per_shard=10)
MAX_RESIDENT_BYTES = 500_000_000
"""Of each process. Libraries alone take half of it; any of the bombs would burst it."""
GIGABYTE = 1 << 30
ZEROS = bytes(1 << 20)


def wide_png():
    """A sound file of some kilobytes that says it has 50,000 x 50,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(ZEROS)) + chunk(b"IEND", b"")


GOOD = picture("JPEG")
BOMB = gzip.compress(100 * ZEROS)
FATES = {
    "good": "ok",
    "loop": "too_many_redirects",
    "long_way": "too_many_redirects",
    "away": "refused_address",
    "away_by_number": "refused_address",
    "away_in_v6": "refused_address",
    "away_behind_a_user": "refused_address",
    "away_in_two": "refused_address",
    "to_a_file": "not_allowed_scheme",
    "drip": "timeout",
    "drip_of_headers": "timeout",
    "two_gigabytes": "too_large",
    "two_gigabytes_unsaid": "too_large",
    "gzip_bomb": "undecodable",
    "wide": "too_many_pixels",
    "page_as_picture": "undecodable",
    "says_more": "incomplete_body",
    "says_less": "truncated",
    "no_status": "bad_response",
}


class Hostile(Handler):
    away = ""  # where it leads: the other server's port

    def respond(self, name):
        getattr(self, name.partition("?")[0])()

    def leads(self, location):
        self.answer(302, b"", Location=location)

    def good(self):
        self.answer(200, GOOD)

    def loop(self):
        self.leads("/loop")

    def long_way(self):
        self.leads(f"/long_way?{time.monotonic_ns()}")

    def away_(self, host):
        self.leads(f"http://{host}:{self.port}/good")

    def away_by_number(self):
        self.away_(int.from_bytes(bytes((127, 0, 0, 2))))

    def away_in_v6(self):
        self.away_("[::ffff:127.0.0.2]")

    def away_behind_a_user(self):
        self.away_("127.0.0.1@127.0.0.2")

    def away_in_two(self):
        self.leads("/away")

    def to_a_file(self):
        self.leads("file:///etc/hostname")

    def drip(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        self.dripped(GOOD)

    def drip_of_headers(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        self.dripped(b"X-More: 1\r\n" * 10)

    def dripped(self, data):
        for place in range(20):
            self.wfile.write(data[place : place + 1])
            time.sleep(1)

    def two_gigabytes(self):
        self.stream({"Content-Length": str(2 * GIGABYTE)})

    def two_gigabytes_unsaid(self):
        self.stream({})

    def stream(self, headers):
        self.send_response(200)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        for _ in range(2 * GIGABYTE // len(ZEROS)):
            self.wfile.write(ZEROS)

    def gzip_bomb(self):
        self.answer(200, BOMB, Content_Encoding="gzip", Content_Type="image/jpeg")

    def wide(self):
        self.answer(200, wide_png(), Content_Type="image/png")

    def page_as_picture(self):
        self.answer(200, b"<html>sign in</html>", Content_Type="image/jpeg")

    def says_more(self):
        self.answer(200, GOOD, Content_Length=len(GOOD) + 1)

    def says_less(self):
        self.answer(200, GOOD, Content_Length=len(GOOD) - 100)

    def no_status(self):
        self.wfile.write(GOOD)


Hostile.away = lambda self: self.away_("127.0.0.2")

# In a process of its own, whose children's memory is that of this fetch alone.
SCRIPT = """
import resource, sys
from pathlib import Path
from tests.tasks.fetches import fetch, step_folders
from tests.tasks.fetching.test_hostile import LIMITS
if __name__ == "__main__":
    fetch(Path(sys.argv[1]), LIMITS, step_folders(Path(sys.argv[2])))
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The folders of the fetch, the most bytes that one of its processes held, and who was at the other address."""
    folder = tmp_path_factory.mktemp("hostile")
    with (
        serving(Hostile, "127.0.0.2") as (visited, away),
        serving(Hostile, port=int(away.rpartition(":")[2])) as (_, url),
    ):
        table = table_of(folder / "table", "url", [f"{url}/{name}" for name in FATES])
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), away)
        command = [sys.executable, "-c", SCRIPT, str(table), str(folder / "site")]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[3], env=os.environ | proxies, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return step_folders(folder / "site"), int(done.stdout), dict(visited.asked)


def test_every_attack_is_a_counted_drop(fetched):
    ledger = read_table(fetched[0].out / "ledger.parquet", LedgerRow)
    assert {row.url.rpartition("/")[2]: row.fate for row in ledger} == FATES
    counts = read_counts(fetched[0].out)
    assert (counts["rows"], counts["kept"]) == (len(FATES), 1)
    assert counts["dropped"]["refused_address"] == 5


def test_no_process_goes_to_another_address_by_a_redirect_or_a_proxy(fetched):
    assert fetched[2] == {}


def test_memory_is_bounded(fetched):
    assert fetched[1] < MAX_RESIDENT_BYTES


def test_the_notes_say_what_each_host_gave(fetched):
    assert json.loads((fetched[0].notes / "hosts.json").read_text()) == {"127.0.0.1": {"rows": len(FATES), "kept": 1}}
