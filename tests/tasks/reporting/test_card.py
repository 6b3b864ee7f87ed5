"""The card of a data set: eight rows, of which one goes in each step, or two."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fetch import ShardWriter
from tasks.fetching.outcomes import Outcome
from tasks.reporting.card import DataCardSources, _distribution, data_card_of
from tasks.reporting.cards import write_cards
from tasks.screen import Against, screen
from tasks.tables import DROPPED_FILE, ROWS_FILE, Drop, TableRow, TableWriter, Tally
from tests.tasks.shards import ALONE, encoded, picture, step_folders
from tinygptv_core.columns import caption_turns
from tinygptv_core.recipe import Recipe
from tinygptv_core.run import DataFolders
from tinygptv_core.settings import Screen

EVIL = "<script>alert(1)</script>"
URLS = [
    "http://a.org/0.jpg",
    "ftp://b.net/1.jpg",
    "http://A.org:8080/2.jpg",
    "https://user:secret@b.net/3.jpg?x=http://c.com/",
    f"http://c.com/{EVIL}",
    "http://a.org/5.jpg",
    "http://[2001:db8::1]:80/6.jpg",
]
SAID = ["one", "never seen", "one two", "one two three", EVIL, "too small a picture", "a b c d e f g h i"]
RECIPE = Recipe(
    version=3,
    source="lists/web.json",
    how="url",
    licence="CC-BY-4.0",
    citation=f"Somebody, 2020 {EVIL}",
    picture="url",
    turns=caption_turns,
    expected_rows=9,
)


def row(number):
    turns = json.dumps([["user", "what is it?"], ["assistant", SAID[number], "or so", "or so"]])
    return TableRow(key=f"{number:09d}", url=URLS[number], file=None, turns=turns, split=None, group=None)


def table(folder, rows, drops):
    folder.mkdir(parents=True)
    tally = Tally()
    with TableWriter(folder / ROWS_FILE, TableRow) as kept, TableWriter(folder / DROPPED_FILE, Drop) as dropped:
        for one in rows:
            kept.write(one)
            tally.kept += 1
        for drop in drops:
            dropped.write(drop)
            tally.dropped[drop.reason] += 1
    tally.write(folder, len(rows) + len(drops))
    return folder


def shards(folder, rows):
    """Row 4 was not found, and row 5 is 16 pixels wide; the others are of 96 x 72 pixels."""
    folder.mkdir(parents=True)
    tally = Tally()
    with ShardWriter(folder, 2) as writer:
        for number, one in enumerate(rows):
            if one.url == URLS[4]:
                lost = Outcome(fate="http_404", detail=EVIL)
                writer.write(one, lost, None)
                tally.dropped["http_404"] += 1
                continue
            size = (16, 12) if one.url == URLS[5] else (96, 72)
            data = encoded(picture(number, size))
            kept = Outcome(fate="ok", detail="", sha256=str(number), width=size[0], height=size[1])
            writer.write(one, kept, ("jpg", data))
            tally.kept += 1
    tally.write(folder, len(rows))
    return folder


@pytest.fixture
def sources(tmp_path) -> DataCardSources:
    rows = [row(number) for number in range(len(URLS))]
    broken = Drop(key="000000007", url=None, reason="broken_record", detail="there is no 'url'")
    wrong = Drop(key=rows[1].key, url=URLS[1], reason="not_allowed_scheme", detail="ftp")
    index = step_folders(tmp_path / "screen")
    folders = {
        "rows": table(tmp_path / "rows", rows, [broken]),
        "filter": table(tmp_path / "filter", [rows[0], *rows[2:]], [wrong]),
        "fetch": shards(tmp_path / "fetch", [rows[0], *rows[2:]]),
        "screen": index.out,
    }
    rules = Screen(min_side=32, max_aspect=3.0, unique_bytes=True)
    screen(rules, folders["fetch"], Against(), index, ALONE)
    return DataCardSources(
        name="web",
        recipe=RECIPE,
        folders=folders,
        digests={step: step[0] * 64 for step in folders},
        read=DataFolders(shards=folders["fetch"], index=folders["screen"]),
    )


def written(sources, folder: Path) -> tuple[dict, str]:
    """The card's JSON and page."""
    pages = write_cards([sources], folder / "run", folder / "kept")
    assert pages == {"web": folder / "run" / "web.html"}
    return json.loads((folder / "run" / "web.json").read_text()), pages["web"].read_text()


def test_every_row_is_counted_once_with_its_reason(sources):
    card = data_card_of(sources)
    reasons = {"broken_record": 1, "http_404": 1, "not_allowed_scheme": 1, "too_small": 1}
    assert card["counts"] == {"rows": 8, "kept": 4, "dropped": reasons}
    assert [(found["rows"], found["kept"]) for found in card["steps"].values()] == [(8, 7), (7, 6), (6, 5), (5, 4)]
    assert {reason: [one["key"] for one in found] for reason, found in card["drops"].items()} == {
        "broken_record": ["000000007"],
        "http_404": ["000000004"],
        "not_allowed_scheme": ["000000001"],
        "too_small": ["000000005"],
    }


def test_hosts_are_told_without_port_name_and_password(sources):
    card = data_card_of(sources)
    assert card["num_hosts"] == 4
    assert [(host["host"], host["kept"], host["dropped"]) for host in card["hosts"]] == [
        ("a.org", 2, {"too_small": 1}),
        ("b.net", 1, {"not_allowed_scheme": 1}),
        ("2001:db8::1", 1, {}),
        ("c.com", 0, {"http_404": 1}),
    ]


def test_the_page_says_how_many_rows_are_in_no_hosts_line_and_why(sources, tmp_path):
    """Of ten rows one has no URL; two more were not wanted, so they are in no ledger."""
    for step, changes in (
        ("filter", {"rows": 9, "kept": 8}),
        ("rows", {"rows": 10, "kept": 9}),
        ("fetch", {"rows": 8}),
    ):
        counts = json.loads((sources.folders[step] / "counts.json").read_text()) | changes
        counts["dropped"] |= {"not_wanted": 2} if step == "fetch" else {}
        (sources.folders[step] / "counts.json").write_text(json.dumps(counts))
    card, page = written(sources, tmp_path)
    assert card["of_hosts"] == sum(host["kept"] + sum(host["dropped"].values()) for host in card["hosts"]) == 7
    said = "7 of 10 rows. The 2 that were not wanted count for none. 1 has no URL with a host.</p>"
    assert said in page


def test_words_and_sizes_are_those_of_what_stays(sources):
    """What is said in rows 0, 2, 3 and 6 has 1, 2, 3 and 9 words; the questions are not counted."""
    card = data_card_of(sources)
    words = card["words"]
    assert words is not None and card["width"] is not None and card["height"] is not None
    assert (words["of"], words["least"], words["median"], words["mean"], words["most"]) == (4, 1, 2.5, 3.75, 9)
    assert [(one["low"], one["high"], one["count"]) for one in words["bins"]] == [
        (1, 2, 1),
        (2, 4, 2),
        (4, 8, 0),
        (8, 16, 1),
    ]
    assert (card["width"]["most"], card["height"]["least"]) == (96, 72)


@given(st.lists(st.integers(0, 100_000), min_size=1))
def test_every_value_is_in_one_bin(values):
    spread = _distribution(np.array(values))
    assert spread is not None
    for one in spread["bins"]:
        assert one["count"] == sum(one["low"] <= value < one["high"] for value in values)
    assert sum(one["count"] for one in spread["bins"]) == spread["of"] == len(values)


def test_nothing_has_no_spread():
    assert _distribution(np.array([], dtype=np.int64)) is None


def test_the_page_says_what_the_json_says_and_shows_what_stays(sources, tmp_path):
    card, page = written(sources, tmp_path)
    assert card == data_card_of(sources)
    assert "CC-BY-4.0" in page and "here are 8" in page and "r" * 64 in page and "not_allowed_scheme" in page
    assert page.count("<img src=") == 4 and page.count("what is it?") == 4
    assert page.count('<dd class="said">one two | or so</dd>') == 1


def test_what_came_from_outside_is_text_on_the_page_and_never_markup(sources, tmp_path):
    _, page = written(sources, tmp_path)
    assert "<script" not in page and page.count("&lt;script&gt;") == 3  # the citation, a URL and what its server said
    outside = re.findall(r"""(?:src|href)=["'](?!data:|#|\.\./report\.html)[^"']*|url\((?!#)[^)]*|@import""", page)
    assert outside == [] and "default-src 'none'" in page


def test_a_card_is_made_once_for_the_same_artifacts_and_recipe(sources, tmp_path):
    written(sources, tmp_path)
    (page,) = (tmp_path / "kept").glob("*.html")
    page.write_text("made before")
    assert written(sources, tmp_path)[1] == "made before"
    for other in (
        replace(sources, digests={**sources.digests, "screen": "0" * 64}),
        replace(sources, recipe=replace(RECIPE, licence="CC0-1.0")),
    ):
        assert "made before" not in written(other, tmp_path)[1]
    assert len(list((tmp_path / "kept").iterdir())) == 6


def test_a_card_that_was_half_written_is_made_again(sources, tmp_path):
    written(sources, tmp_path)
    (page,) = (tmp_path / "kept").glob("*.html")
    page.unlink()
    next((tmp_path / "kept").glob("*.json")).write_text("{")
    assert written(sources, tmp_path)[0]["counts"]["rows"] == 8
