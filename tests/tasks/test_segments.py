"""How many pictures are fetched, which, and what wanting more costs."""

import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.build import Store
from tasks.fetch_estimates import estimate_fetch
from tasks.fetching.downloads import RECENT_ROWS, SuccessMonitor
from tasks.segments import FetchTarget, cut, num_segments, rounded
from tasks.tables import LedgerRow, read_counts, read_table
from tests.tasks.fetches import SETTINGS, fetch, options, step_folders, table_of
from tests.tasks.web import Handler, picture, serving
from tinygptv_core.artifact import Artifact, digest_of, members_of
from tinygptv_core.columns import caption_turns
from tinygptv_core.ordering import places
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import NANO
from tinygptv_core.recipe import Recipe
from tinygptv_core.stage import samples_drawn, samples_wanted

ROWS = 40
LIMITS = replace(SETTINGS, segment_rows=10, samples_per_shard=10)  # four segments of about ten rows


LISTED = Recipe(
    version=1, source="list", how="url", licence="none", citation="none", picture="url", turns=caption_turns
)


class Web(Handler):
    dead: frozenset[str]
    busy: frozenset[str] = frozenset()

    def respond(self, name):
        if name in self.busy and self.asked[name] == 1:
            self.answer(503, b"")
        else:
            self.answer(404 if name in self.dead else 200, picture("JPEG", int(name)))


@pytest.fixture
def web():
    with serving(Web, dead=frozenset()) as (handler, url):
        yield handler, url


@pytest.fixture
def table(web, tmp_path):
    return table_of(tmp_path / "table", "url", [f"{web[1]}/{number}" for number in range(ROWS)])


def keys(shards):
    return [int(row.key) for row in read_table(shards / "ledger.parquet", LedgerRow) if row.fate == "ok"]


def in_order():
    """The rows by segments, as they are taken: each segment's in the list's order."""
    segment_N = places(np.arange(ROWS), LIMITS.seed) >> np.uint64(62)
    return [np.flatnonzero(segment_N == number).tolist() for number in range(4)]


def test_places_are_a_function_of_key_and_seed_alone():
    some, all_N = places(np.array([7, 3]), "a", 1), places(np.arange(10), "a", 1)
    assert some.tolist() == all_N[[7, 3]].tolist()
    assert len(set(all_N.tolist())) == 10
    assert places(np.arange(10), "a", 2).tolist() != all_N.tolist()


def test_places_are_spread_evenly():
    drawn = np.bincount(places(np.arange(100_000), 0) >> np.uint64(60), minlength=16)
    assert drawn == pytest.approx([6_250] * 16, abs=4 * 76)  # 76: sqrt(100000 * 1/16 * 15/16)


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 4), (40, 4), (41, 8)])
def test_a_segment_has_at_most_so_many_rows_on_average_and_at_least_half_of_it(rows, count):
    assert num_segments(rows, LIMITS) == count


def test_every_row_is_in_one_segment_and_a_removed_row_changes_its_own_alone(tmp_path):
    whole = table_of(tmp_path / "whole", "url", [f"http://a.example/{number}" for number in range(ROWS)])
    less = tmp_path / "less.parquet"
    removed = 17
    rows = pq.read_table(whole / "rows.parquet")
    pq.write_table(rows.take([number for number in range(ROWS) if number != removed]), less)
    before, after = (
        cut(file, range(4), 4, LIMITS.seed, folder)
        for file, folder in ((whole / "rows.parquet", whole), (less, tmp_path))
    )
    found = [[int(key) for key in pq.read_table(path)["key"].to_pylist()] for path in before]
    assert found == in_order()
    same = [one.read_bytes() == other.read_bytes() for one, other in zip(before, after, strict=True)]
    assert same == [removed not in segment for segment in found]


def test_what_is_wanted_is_fetched_with_substitutes_for_dead_links_and_no_more(web, table, tmp_path):
    first, second, third, _ = in_order()
    web[0].dead = frozenset(map(str, [*first[:3], second[0]]))
    wanted = len(first) + len(second)  # four too few in these, so that the third segment stands in
    fetch(table, LIMITS, step_folders(tmp_path / "site"), wanted=wanted, processes=1)
    out = tmp_path / "site" / "out"
    assert keys(out) == [*first[3:], *second[1:], *third]
    assert set(web[0].asked) == set(map(str, [*first, *second, *third]))
    left = ROWS - len([*first, *second, *third])
    assert read_counts(out) == {
        "rows": ROWS,
        "kept": len(keys(out)),
        "dropped": {"http_404": 4, "not_wanted": left},
    }


def test_a_segment_whose_links_are_all_dead_has_the_next_stand_in_and_is_asked_again_by_another_fetch(
    web, table, tmp_path
):
    first, second, *others = in_order()
    web[0].dead = frozenset(map(str, [*first, *second[1:]]))
    place = step_folders(tmp_path / "few")
    fetch(table, LIMITS, place, wanted=2, store=tmp_path / "store", processes=1)
    assert keys(place.out) == [second[0], *(key for segment in others for key in segment)]
    assert read_counts(place.out)["dropped"]["http_404"] == len(first) + len(second) - 1
    web[0].dead = frozenset()
    web[0].asked.clear()
    place = step_folders(tmp_path / "again")
    fetch(table, LIMITS, place, wanted=2, store=tmp_path / "store", processes=1)
    assert keys(place.out) == first and set(web[0].asked) == set(map(str, first))


def test_where_every_link_is_dead_the_fetch_is_refused_and_the_next_asks_again(web, table, tmp_path):
    web[0].dead = frozenset(map(str, range(ROWS)))
    place = step_folders(tmp_path / "site")
    with pytest.raises(ConfigError, match=f"of {ROWS} rows none is left. Why they were dropped: http_404 {ROWS}"):
        fetch(table, LIMITS, place, wanted=5, processes=1)
    web[0].dead = frozenset()
    fetch(table, LIMITS, place, wanted=5, processes=1)
    assert keys(place.out) == in_order()[0]


def test_which_rows_are_fetched_does_not_depend_on_how_many_processes_fetch(web, tmp_path):
    """Of 64 segments of 160 rows, the first 16 of which gave a picture each, as many are taken at a time."""
    segment_N = places(np.arange(160), LIMITS.seed) >> np.uint64(58)
    first = [np.flatnonzero(segment_N == number) for number in range(16)]
    web[0].dead = frozenset(str(row) for rows in first for row in rows[1:])
    table = table_of(tmp_path / "many", "url", [f"{web[1]}/{number}" for number in range(160)])
    limits, found = replace(LIMITS, segment_rows=3, per_host=1), []
    for processes in (1, 2):
        place = step_folders(tmp_path / str(processes))
        fetch(table, limits, place, wanted=44, processes=processes)
        found.append(keys(place.out))
    assert found[0] == found[1]


def test_wanting_more_fetches_the_difference_and_a_dead_link_moves_no_other_row(web, table, tmp_path):
    first, second, *_ = in_order()
    few, more, all_of_it = (step_folders(tmp_path / name) for name in ("few", "more", "all"))
    fetch(table, LIMITS, few, wanted=len(first), store=tmp_path / "store", processes=1)
    assert keys(few.out) == first
    web[0].asked.clear()
    fetch(table, LIMITS, more, wanted=len(first) + 1, store=tmp_path / "store", processes=1)
    assert keys(more.out) == [*first, *second]
    assert set(web[0].asked) == set(map(str, second))
    web[0].dead = frozenset([str(first[2])])
    fetch(table, LIMITS, all_of_it, store=tmp_path / "another day", processes=1)
    assert keys(all_of_it.out) == [key for segment in in_order() for key in segment if key != first[2]]


def test_a_damaged_segment_is_fetched_again_and_no_other_though_its_time_stamp_says_nothing(web, table, tmp_path):
    before, after = step_folders(tmp_path / "before"), step_folders(tmp_path / "after")
    fetch(table, LIMITS, before, store=tmp_path / "store", processes=1)
    digest = digest_of(members_of(before.out))
    tar = before.out / "00001.tar"  # one file with the second segment's
    stamp = tar.stat().st_mtime_ns
    tar.chmod(0o644)
    with tar.open("r+b") as file:
        file.seek(600)
        file.write(bytes(100))
    os.utime(tar, ns=(stamp, stamp))
    web[0].asked.clear()
    fetch(table, LIMITS, after, store=tmp_path / "store", processes=1)
    assert digest_of(members_of(after.out)) == digest
    assert set(web[0].asked) == set(map(str, in_order()[1]))


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    os.truncate(path, path.stat().st_size // 2)


def removed(path):
    path.unlink()


BUSY = ["12", "33"]
SECOND_SHARD = [*map(str, range(10, 20)), "33"]
"""What is asked for again where the second shard is: its rows, and then the others that failed in passing."""


@pytest.mark.parametrize(
    ("names", "harm", "asked"),
    [
        (["first/00001.tar"], halved, SECOND_SHARD),
        (["first/00001.progress"], emptied, SECOND_SHARD),
        (["first/00001_stats.json", "first/00001.parquet"], emptied, SECOND_SHARD),
        (["second/00000.tar"], halved, BUSY),
        (["second/00000_stats.json"], emptied, BUSY),
        (["again.parquet", "second/00000_stats.json"], removed, BUSY),
    ],
)
def test_what_a_lost_power_left_half_of_is_fetched_again_and_nothing_else(web, table, tmp_path, names, harm, asked):
    def stopping(done, total, text):
        if text == "packing":
            raise InterruptedError

    web[0].busy = frozenset(BUSY)
    one = replace(LIMITS, segment_rows=ROWS)
    place, whole = step_folders(tmp_path / "site"), step_folders(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        fetch(table, one, place, progress=stopping)
    for name in names:
        (path,) = place.scratch.glob(f"*/{name}")
        harm(path)
    web[0].busy = frozenset()
    web[0].asked.clear()
    fetch(table, one, place)
    assert web[0].asked == dict.fromkeys(asked, 1)
    web[0].asked.clear()
    web[0].busy = frozenset(BUSY)
    fetch(table, one, whole, store=tmp_path / "store")
    assert digest_of(members_of(place.out)) == digest_of(members_of(whole.out))


def test_a_list_smaller_than_a_segment_is_fetched_whole_in_its_own_order(web, table, tmp_path):
    place = step_folders(tmp_path / "site")
    fetch(table, replace(LIMITS, segment_rows=ROWS), place, wanted=1, processes=1)
    assert keys(place.out) == list(range(ROWS))
    assert "not_wanted" not in read_counts(place.out)["dropped"]


def test_a_forced_fetch_asks_again(web, table, tmp_path):
    fetch(
        table, replace(LIMITS, segment_rows=ROWS), step_folders(tmp_path / "one"), store=tmp_path / "store", processes=1
    )
    web[0].dead = frozenset("0")
    anew = step_folders(tmp_path / "two", forced=True)
    fetch(table, replace(LIMITS, segment_rows=ROWS), anew, store=tmp_path / "store", processes=1)
    assert keys(anew.out) == list(range(1, ROWS))


def test_what_stages_draw_is_steps_by_batch_by_share_and_what_they_hold_out():
    """Two stages, 110 and 120 steps of 32, 14 parts in 129 of it; each holds 32 out."""
    assert samples_drawn(NANO.stages, "scenes_alt") == 12 * 32 + 14 * 32
    assert samples_wanted(NANO.stages, "scenes_alt") == 12 * 32 + 32 + 14 * 32 + 32
    assert samples_wanted(NANO.stages, "scenes_test") == 0
    assert rounded(12 * 32, LIMITS) == 390


def watched(*parts, min_success=0.01):
    """What a watch says after each part of the fates, which add up."""
    monitor, fates = SuccessMonitor(Counter(), min_success), Counter()
    return [monitor.collapsed(fates := fates + Counter(part)) for part in parts]


def test_a_fetch_collapses_when_hardly_any_of_the_last_rows_gave_a_picture():
    good, none = {"ok": 700, "http_404": 300}, {"host_not_found": RECENT_ROWS}
    assert watched(good, {"host_not_found": 999}) == [None, None]
    assert watched(good, none) == [None, Counter(none)]
    assert watched(none) == [Counter(none)]
    assert watched(none, min_success=0) == [None]
    assert watched({"ok": 10, "http_404": 990}) == [None]  # one in a hundred is as many as is asked for
    assert watched({"http_404": 500}, {"ok": 500}) == [None, None]


def test_a_fetch_of_pages_in_place_of_pictures_stops_and_drops_no_row(tmp_path):
    class Proxy(Handler):
        def respond(self, name):
            self.answer(200, picture("JPEG") if self.passes else b"<html>sign in</html>")

    limits = replace(LIMITS, segment_rows=2_000, samples_per_shard=100)
    with serving(Proxy, passes=False) as (handler, url):
        table = table_of(tmp_path / "t", "url", [f"{url}/{n}" for n in range(1_500)])
        place = step_folders(tmp_path / "site")
        with pytest.raises(RuntimeError, match=r"of the last 1\d\d\d pictures 0 could be had: undecodable .*proxy"):
            fetch(table, limits, place, processes=1)
        assert handler.asked.total() < 1_500
        handler.passes = True
        fetch(table, limits, place, processes=1)
    assert read_counts(place.out) == {"rows": 1_500, "kept": 1_500, "dropped": {}}


def test_the_store_notes_what_each_segment_took(web, table, tmp_path):
    place = step_folders(tmp_path / "site")
    fetch(table, LIMITS, place, store=tmp_path / "store", processes=1)
    records = [json.loads(path.read_text()) for path in (tmp_path / "store" / "keys" / "segment").glob("*.json")]
    assert len(records) == 4 and all(record["noted"]["fetch_seconds"] > 0 for record in records)
    tars = list((tmp_path / "store" / "shards").glob("*/*.tar"))
    assert all(any(tar.samefile(mine) for tar in tars) for mine in place.out.glob("*.tar"))  # no byte is twice on disk


def estimated(tmp_path, table=None, wanted=None, listed=None, **recipe):
    asked = FetchTarget(name="web", settings=LIMITS, pictures=wanted, allowed={})
    given = Artifact(kind="table", digest="0" * 64, path=table) if table else None
    return estimate_fetch(asked, replace(LISTED, **recipe), given, options(), Store(tmp_path / "store"), listed)


def test_what_a_fetch_takes_is_told_before_anything_is_there(tmp_path):
    """60,000 pictures of 20,000 bytes, half of the links alive: 120,000 requests of half a second, 8 at a time.

    In whole segments: 15,729 of 131,072, each of 7.6 rows.
    """
    told = estimated(tmp_path, wanted=60_000, expected_rows=1_000_000, expected_success=0.5, picture_bytes=20_000)
    assert (told.rows, told.bytes, told.seconds) == (120_003, 1_200_030_000, 120_003 / 16)
    assert not told.is_measured and not told.is_bound
    assert estimated(tmp_path, wanted=60_000, expected_rows=90_000, expected_success=0.5).rows == 90_000
    assert estimated(tmp_path, wanted=6, expected_success=0.5).is_bound
    assert estimated(tmp_path) is None
    listed = estimated(tmp_path, wanted=60_000, listed=3)
    assert (listed.rows, listed.is_bound) == (3, True)  # the filter may leave fewer


def test_a_segment_that_gave_nothing_is_still_to_be_fetched(web, table, tmp_path):
    first, *_ = in_order()
    web[0].dead = frozenset(map(str, first))
    fetch(table, LIMITS, step_folders(tmp_path / "site"), wanted=1, store=tmp_path / "store", processes=1)
    kept = read_counts(tmp_path / "site" / "out")["kept"]
    assert kept > 1  # those of the second segment
    assert estimated(tmp_path, table).rows == ROWS - kept


def test_once_something_was_fetched_the_rest_is_told_by_that(web, table, tmp_path):
    first, *_ = in_order()
    web[0].dead = frozenset(map(str, first[: len(first) // 2]))
    alive = len(first) - len(first) // 2
    assert estimated(tmp_path, table, wanted=alive).rows == 10  # all segments have ten rows on average
    fetch(table, LIMITS, step_folders(tmp_path / "site"), wanted=alive, store=tmp_path / "store", processes=1)
    told = estimated(tmp_path, table, wanted=alive + 3)
    assert told.is_measured and told.rows == 10
    assert estimated(tmp_path, table, wanted=3 * alive).rows == 20
    assert estimated(tmp_path, table, wanted=alive).rows == 0
    assert estimated(tmp_path, table, wanted=1_000).rows == estimated(tmp_path, table).rows == ROWS - len(first)
