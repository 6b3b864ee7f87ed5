"""From a table to shards: img2dataset against servers on loopback, and pictures from files.

Every row of the list below is one way in which the web answers. What is asserted holds for the real
img2dataset with its own worker processes.
"""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.fetch import fetch_files
from tasks.screen import Against, screen
from tasks.screening.pictures import PictureError, decoded
from tasks.tables import Drop, LedgerRow, data_counts, read_counts, read_table
from tests.tasks.fetches import SETTINGS, fetch, options, step_folders, table_of
from tests.tasks.shards import ALONE
from tests.tasks.web import Handler, palette_png, picture, serving
from tinygptv_core.artifact import digest_of, members_of, sha256_of_file
from tinygptv_core.plain import ConfigError, sha256_of
from tinygptv_core.settings import Fetch, Screen

RULES = Screen(min_side=32, max_aspect=3.0, unique_bytes=True)


def half_clear():
    """A red square whose right half is transparent, with blue below the transparency."""
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (32, 0, 64, 64))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


ROWS = [  # path, fate in the ledger, reason of the screen
    ("plain.jpg", "ok", None),
    ("missing.jpg", "http_404", None),
    ("flaky.jpg", "ok", None),
    ("failing.jpg", "http_500", None),
    ("page.html", "undecodable", None),
    ("silent.jpg", "timeout", None),
    ("cut.png", "truncated", None),
    ("cut.jpg", "truncated", None),
    ("clear.png", "ok", None),
    ("tiny.png", "ok", "too_small"),
    ("long.png", "ok", "too_elongated"),
    ("copy.jpg", "ok", "duplicate"),
    ("leave.jpg", "refused_address", None),
    ("moved.jpg", "ok", None),
    ("noai.jpg", "disallowed_by_site", None),
    ("mine.jpg", "disallowed_by_site", None),
    ("grey.jpg", "ok", None),
    ("deep.png", "ok", None),
    ("large.png", "too_large", None),
    ("animated.gif", "ok", None),
    ("palette.png", "undecodable", None),
    ("deep.tif", "ok", None),
]
PICTURES = {
    "plain.jpg": picture("JPEG"),
    "flaky.jpg": picture("JPEG", 1),
    "page.html": b"<html><body>no picture</body></html>",
    "cut.png": picture("PNG", 2)[:2000],
    "cut.jpg": picture("JPEG", 3)[:-100],
    "clear.png": half_clear(),
    "tiny.png": picture("PNG", 4, (31, 40)),
    "long.png": picture("PNG", 5, (121, 40)),
    "copy.jpg": picture("JPEG"),
    "elsewhere.jpg": picture("JPEG", 6),
    "noai.jpg": picture("JPEG", 7),
    "mine.jpg": picture("JPEG", 12),
    "grey.jpg": picture("JPEG", 8, mode="L"),
    "deep.png": picture("PNG", 9, mode="I;16"),
    "large.png": picture("PNG", 10, (150, 150)),
    "animated.gif": picture("GIF", 11),
    "palette.png": palette_png(clear=300),
    "deep.tif": picture("TIFF", 13, mode="I;16B"),
}


class Web(Handler):
    away = ""

    def respond(self, name):
        if name == "silent.jpg":
            return time.sleep(3)
        if name == "failing.jpg" or (name == "flaky.jpg" and self.asked[name] % 2):
            return self.answer(500, b"")
        if name in ("leave.jpg", "moved.jpg"):
            return self.answer(302, b"", Location=self.away if name == "leave.jpg" else "/elsewhere.jpg")
        if name not in PICTURES:
            return self.answer(404, b"")
        headers = {"noai.jpg": {"X_Robots_Tag": "noai"}, "mine.jpg": {"TDM_Reservation": 1}}.get(name, {})
        return self.answer(200, PICTURES[name], **headers)


@pytest.fixture(scope="module")
def web():
    """The two servers' handlers, and where the first is: one that answers, one that must not be asked."""
    with serving(Web) as (first, url), serving(Web, "127.0.0.2") as (second, away):
        first.away = f"{away}/plain.jpg"
        yield first, second, url


def members(shards):
    """Name -> bytes of every member of every tar, in order; and that nothing in them tells time or owner."""
    found = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                found[member.name] = tar.extractfile(member).read()
    return found


@pytest.fixture(scope="module")
def fetched(web, tmp_path_factory):
    """The list above fetched and screened once; and how it was told to go on."""
    folder = tmp_path_factory.mktemp("fetched")
    table = table_of(folder / "table", "url", [f"{web[2]}/{path}" for path, _, _ in ROWS])
    shards, index, told = step_folders(folder / "shards"), step_folders(folder / "index"), []
    fetch(table, SETTINGS, shards, progress=lambda *report: told.append(report))
    asked = dict(web[0].asked)
    screen(RULES, shards.out, Against(), index, ALONE)
    return table, shards.out, index.out, asked, told


def test_every_row_has_its_fate(fetched, web):
    ledger = list(read_table(fetched[1] / "ledger.parquet", LedgerRow))
    assert [(row.key, row.fate) for row in ledger] == [(f"{n:09d}", fate) for n, (_, fate, _) in enumerate(ROWS)]
    first = ledger[0]
    assert (first.sha256, first.width, first.height) == (
        hashlib.sha256(PICTURES["plain.jpg"]).hexdigest(),
        60,
        40,
    )
    assert ledger[1].detail == "Not Found" and ledger[5].detail == "no answer for 2 s"


def test_what_may_pass_is_tried_once_more_and_nothing_else(fetched):
    asked = fetched[3]
    twice = {"flaky.jpg", "failing.jpg", "silent.jpg"}
    assert {name for name, count in asked.items() if count != 1} == twice
    assert {asked[name] for name in twice} == {2}


def test_no_worker_process_went_to_an_address_that_was_not_allowed(fetched, web):
    assert fetched[3]["leave.jpg"] == 1
    assert web[1].asked == Counter()


def test_counts_add_up_from_the_table_to_the_index(fetched):
    table, shards, index, _, _ = fetched
    assert read_counts(shards)["rows"] == len(ROWS)
    assert data_counts(table, table, shards, index) == {
        "rows": 22,
        "kept": 8,
        "dropped": {
            "disallowed_by_site": 2,
            "duplicate": 1,
            "http_404": 1,
            "http_500": 1,
            "refused_address": 1,
            "timeout": 1,
            "too_elongated": 1,
            "too_large": 1,
            "too_small": 1,
            "truncated": 2,
            "undecodable": 2,
        },
    }


def test_the_index_names_the_bytes_of_the_samples_that_stay(fetched):
    _, shards, index, _, _ = fetched
    names = json.loads((index / "shards.json").read_text())
    assert names == ["00000.tar", "00001.tar", "00002.tar"]
    inside, kept = members(shards), []
    for sample in np.load(index / "samples.npy"):
        data = (shards / names[sample["shard"]]).read_bytes()
        text = json.loads(data[sample["text"] :][: sample["text_bytes"]])
        image = data[sample["image"] :][: sample["image_bytes"]]
        assert image == inside[f"{text['key']}.jpg"]
        assert text["turns"] == [["assistant", f"picture {int(text['key'])}"]] and text["group"] == "a"
        kept.append(ROWS[int(text["key"])][0])
    assert kept == [path for path, fate, reason in ROWS if fate == "ok" and reason is None]
    reasons = {row.key: row.reason for row in read_table(index / "dropped.parquet", Drop)}
    assert reasons == {f"{n:09d}": reason for n, (_, _, reason) in enumerate(ROWS) if reason}


def test_pictures_come_at_the_size_asked_for_with_white_at_the_border_and_below_transparency(fetched):
    inside = members(fetched[1])
    pixels = {
        name: np.asarray(Image.open(io.BytesIO(data))).astype(int) for name, data in inside.items() if "jpg" in name
    }
    assert {image.shape for image in pixels.values()} == {(64, 64, 3)}
    border, clear = pixels["000000000.jpg"], pixels["000000008.jpg"]
    assert border[:8].min() > 240 and border[20:44].min() < 60  # 60 x 40 becomes 64 x 43, with ten rows above it
    assert np.abs(clear[:, :28] - (255, 0, 0)).max() < 8 and clear[:, 36:].min() > 247


def test_progress_is_told_to_the_end(fetched):
    told = fetched[4]
    assert {text.partition(",")[0] for _, _, text in told} == {"fetching", "packing"}
    assert any(text.endswith("% had") for _, _, text in told)
    assert told[-1][:2] == (22, 22) and all(0 <= done <= total == 22 for done, total, _ in told)


SCRIPT = """
import sys
from pathlib import Path
from tests.tasks.fetches import SETTINGS, fetch, step_folders
if __name__ == "__main__":
    fetch(Path(sys.argv[1]), SETTINGS, step_folders(Path(sys.argv[2])))
"""


def processes_of_group(group):
    """The ids of the processes of a group, those that are dead and not buried apart."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def group_of(spec):
    """The process group of the download that `spec` describes."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(spec) in line.read_text():
                return os.getpgid(int(line.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError(f"no process works on {spec}")


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_fetch_leaves_no_process_and_goes_on_to_the_same_digest(fetched, web, tmp_path):
    place = step_folders(tmp_path)
    command = [sys.executable, "-c", SCRIPT, str(fetched[0]), str(tmp_path)]
    victim = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    wait_until(lambda: list(place.scratch.glob("*/first/*_stats.json")))
    group = group_of(next(place.scratch.glob("spec.json")))
    assert processes_of_group(group)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not list(place.scratch.glob("*/done"))
    wait_until(lambda: not processes_of_group(group), seconds=10)

    finished = [int(path.name[:5]) for path in place.scratch.glob("*/first/*_stats.json")]
    before = Counter(web[0].asked)
    fetch(fetched[0], SETTINGS, place)
    asked_again = set(web[0].asked - before)
    for shard in finished:
        sure = {path for path, fate, _ in ROWS[5 * shard : 5 * shard + 5] if fate == "ok"} - {"flaky.jpg"}
        assert sure and not sure & asked_again
    assert digest_of(members_of(place.out)) == digest_of(members_of(fetched[1]))


def test_where_nothing_could_be_had_the_way_out_is_named_and_nothing_kept(web, tmp_path):
    table, place = table_of(tmp_path / "table", "url", [f"{web[2]}/plain.jpg"]), step_folders(tmp_path / "site")
    with pytest.raises(ConfigError, match=r"of 1 row none is left.*refused_address 1.*--allow-host HOST"):
        fetch(table, SETTINGS, place, allow_hosts=())
    assert list(place.scratch.iterdir()) == []


def test_a_shard_that_cannot_be_written_fails_the_fetch_and_drops_no_row(web, tmp_path):
    table, place = table_of(tmp_path / "table", "url", [f"{web[2]}/plain.jpg"]), step_folders(tmp_path / "site")
    segment = f"{sha256_of_file(table / 'rows.parquet')[:12]}-allowing-{sha256_of(['127.0.0.1'])[:12]}"
    in_the_way = place.scratch / segment / "first" / "00000.tar"
    in_the_way.mkdir(parents=True)
    with pytest.raises(RuntimeError, match="did not finish 1 of 1 shards"):
        fetch(table, SETTINGS, place)
    in_the_way.rmdir()
    fetch(table, SETTINGS, place)
    assert read_counts(place.out) == {"rows": 1, "kept": 1, "dropped": {}}


@pytest.mark.parametrize("host", ["127.0.0.1:80", "http://a.example", "a.example:80"])
def test_a_host_to_allow_is_a_host_alone(host):
    with pytest.raises(ConfigError, match="give the host alone"):
        options(allow_hosts=(host,))


def test_files_are_packed_as_they_are_and_text_stands_alone(tmp_path):
    images = tmp_path / "source" / "images"
    (images / "sub").mkdir(parents=True)
    (tmp_path / "source" / "secret.png").write_bytes(picture("PNG"))
    files = {"a.jpg": picture("PNG", 1), "sub/b.png": picture("WEBP", 2), "cut.gif": picture("GIF")[:500], "c": b"text"}
    for name, data in files.items():
        (images / name).write_bytes(data)
    names = ["a.jpg", None, "sub/b.png", "cut.gif", "c", "none.jpg", "../secret.png", "/etc/hostname", "a\0b", "sub"]
    table, place = table_of(tmp_path / "table", "file", names), step_folders(tmp_path / "site")
    settings = Fetch(**vars(SETTINGS) | {"image_size": None})
    fetch_files(settings, table, tmp_path / "source", options(), place)
    inside = members(place.out)
    assert list(inside) == ["000000000.json", "000000000.png", "000000001.json", "000000002.json", "000000002.webp"]
    assert inside["000000000.png"] == files["a.jpg"] and inside["000000002.webp"] == files["sub/b.png"]
    ledger = list(read_table(place.out / "ledger.parquet", LedgerRow))
    fates = ["ok", "ok", "ok", "truncated", "undecodable", "missing", "outside_images", "outside_images", "unreadable"]
    assert [row.fate for row in ledger] == [*fates, "missing"]
    assert (ledger[1].sha256, ledger[1].width) == (None, None)
    assert read_counts(place.out)["kept"] == 3


def test_files_are_not_resized(tmp_path):
    table = table_of(tmp_path / "table", "file", ["a.jpg"])
    with pytest.raises(ConfigError, match="image_size must be null"):
        fetch_files(SETTINGS, table, tmp_path, options(), step_folders(tmp_path / "site"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_of_any_format_is_whole_or_truncated(kind):
    data = picture(kind)
    assert decoded(data, len(data)).image.size == (60, 40)
    for cut in (len(data) // 2, len(data) - 40, len(data) - 1):
        with pytest.raises(PictureError, match="^truncated: "):
            decoded(data[:cut], len(data))


def test_a_bomb_is_refused_before_it_is_decoded():
    header = picture("BMP")[:18] + (30_000).to_bytes(4, "little") + (30_000).to_bytes(4, "little")
    with pytest.raises(PictureError, match="^too_many_pixels: "):
        decoded(header + picture("BMP")[26:], 1_000_000)
