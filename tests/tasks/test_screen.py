"""Which samples stay, on shards written here by hand."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tasks.build import Site
from tasks.fetch import Packer
from tasks.outcomes import Outcome
from tasks.screen import screen
from tasks.tables import Drop, TableRow, read_counts, read_table
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import Screen

RULES = Screen(min_side=32, max_aspect=3.0, unique_bytes=True)


def site(folder):
    made = Site(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    for path in (made.out, made.scratch, made.notes):
        path.mkdir(parents=True)
    return made


def png():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def shards_of(folder, samples):
    """Shards of two samples each; a sample is its SHA-256, width and height, and its bytes."""
    folder.mkdir()
    with Packer(folder, 2) as packer:
        for number, (sha256, width, height, data) in enumerate(samples):
            row = TableRow(key=f"{number:09d}", url=None, file=None, turns="[]", split=None, group=None)
            outcome = Outcome(fate="ok", detail="", sha256=sha256, width=width, height=height, picture=None)
            packer.write(row, outcome, ("png", data) if data else None)
    return folder


def reasons(folder):
    return [(int(row.key), row.reason) for row in read_table(folder / "dropped.parquet", Drop)]


SAMPLES = [
    ("a", 32, 96, png()),  # the smallest side and the longest shape that stay
    ("b", 31, 90, png()),
    ("c", 97, 32, png()),
    ("a", 40, 40, png()),
    ("d", 31, 40, png()),  # too small, so it is not what the next one repeats
    ("d", 40, 40, png()),
    ("e", 40, 40, b"no picture"),
    (None, None, None, None),
    (None, None, None, None),
]


def test_each_rule_drops_its_sample_and_text_is_never_dropped(tmp_path):
    place = site(tmp_path)
    screen(RULES, shards_of(tmp_path / "shards", SAMPLES), place)
    assert reasons(place.out) == [
        (1, "too_small"),
        (2, "too_elongated"),
        (3, "duplicate"),
        (4, "too_small"),
        (6, "undecodable"),
    ]
    assert read_counts(place.out)["kept"] == 4
    index = np.load(place.out / "samples.npy")
    assert index["shard"].tolist() == [0, 2, 3, 4]
    assert index["image_bytes"].tolist() == [len(png()), len(png()), 0, 0]
    assert index["image"].tolist()[2:] == [0, 0]
    names = json.loads((place.out / "shards.json").read_text())
    for sample, key in zip(index, ("000000000", "000000005", "000000007", "000000008"), strict=True):
        data = (tmp_path / "shards" / names[sample["shard"]]).read_bytes()
        assert json.loads(data[sample["text"] :][: sample["text_bytes"]])["key"] == key


def test_pictures_may_repeat_where_the_settings_let_them(tmp_path):
    place = site(tmp_path)
    screen(replace(RULES, unique_bytes=False), shards_of(tmp_path / "shards", SAMPLES[:4]), place)
    assert reasons(place.out) == [(1, "too_small"), (2, "too_elongated")]


def test_the_same_shards_give_the_same_bytes(tmp_path):
    shards = shards_of(tmp_path / "shards", SAMPLES)
    first, second = site(tmp_path / "1"), site(tmp_path / "2")
    (second.out / "samples.npy").write_bytes(b"what a killed build left")
    for place in (first, second):
        screen(RULES, shards, place)
    for path in first.out.iterdir():
        assert path.read_bytes() == (second.out / path.name).read_bytes()


def test_a_ledger_that_is_not_the_shards_own_is_noticed(tmp_path):
    one, two = (shards_of(tmp_path / name, SAMPLES[:count]) for name, count in (("one", 2), ("two", 4)))
    (one / "ledger.parquet").write_bytes((two / "ledger.parquet").read_bytes())
    with pytest.raises(ValueError, match="shorter"):
        screen(RULES, one, site(tmp_path / "site"))


def test_nothing_left_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="of 1 rows none is left. Why they were dropped: too_small 1"):
        screen(RULES, shards_of(tmp_path / "shards", SAMPLES[1:2]), site(tmp_path / "site"))
