"""The filter's three rules, one row each."""

import json
from dataclasses import replace

import pytest

from tasks.build import Site
from tasks.filter import filter_rows
from tasks.removals import NO_REMOVALS
from tasks.tables import Drop, TableRow, TableWriter, read_counts, read_table
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import Filter
from tinygptv_core.recipe import Recipe, caption_turns

RULES = Filter(schemes=("http", "https"), min_words=2, max_words=3, unique_urls=True)
WEB = Recipe(version=1, source="list", how="url", licence="none", citation="none", picture="url", turns=caption_turns)
FILES = replace(WEB, how="file", picture="image")


def run(folder, settings, recipe, pictures_and_captions, removals=NO_REMOVALS):
    """Keys kept, and (key, reason) dropped, of a table with these rows."""
    table = folder / "table"
    place = Site(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    for path in (table, place.out, place.scratch, place.notes):
        path.mkdir()
    with TableWriter(table / "rows.parquet", TableRow) as writer:
        for number, (picture, caption) in enumerate(pictures_and_captions):
            url, file = (picture, None) if recipe.how == "url" else (None, picture)
            turns = json.dumps([["user", "what is to be seen here?"], ["assistant", caption]])
            writer.write(TableRow(key=str(number), url=url, file=file, turns=turns, split=None, group=None))
    filter_rows(settings, recipe, table, place, removals)
    kept = [row.key for row in read_table(place.out / "rows.parquet", TableRow)]
    dropped = [(row.key, row.reason) for row in read_table(place.out / "dropped.parquet", Drop)]
    counts = read_counts(place.out)
    assert counts["rows"] == len(pictures_and_captions) == counts["kept"] + sum(counts["dropped"].values())
    return kept, dropped


def test_each_rule_drops_its_row(tmp_path):
    kept, dropped = run(
        tmp_path,
        RULES,
        WEB,
        [
            ("http://a/0", "two words"),
            ("ftp://a/1", "two words"),
            ("file:///etc/passwd", "two words"),
            ("a.jpg", "two words"),
            ("http://", "two words"),
            ("http://[a/5", "two words"),
            ("http://a/6", "one"),
            ("http://a/7", "one two three four"),
            ("http://a/0", "again though"),
            ("HTTPS://a/9", "one two three"),
        ],
    )
    assert kept == ["0", "9"]
    assert dropped == [
        ("1", "not_allowed_scheme"),
        ("2", "not_allowed_scheme"),
        ("3", "not_allowed_scheme"),
        ("4", "invalid_url"),
        ("5", "invalid_url"),
        ("6", "too_few_words"),
        ("7", "too_many_words"),
        ("8", "repeated_url"),
    ]


def test_of_equal_urls_the_first_that_passes_the_other_rules_stays(tmp_path):
    rows = [("http://a/0", "short"), ("http://a/0", "long enough"), ("http://a/0", "too late")]
    assert run(tmp_path, RULES, WEB, rows) == (["1"], [("0", "too_few_words"), ("2", "repeated_url")])


def test_files_may_repeat_and_have_no_scheme(tmp_path):
    assert run(tmp_path, RULES, FILES, [("a.jpg", "two words"), ("a.jpg", "more words")])[0] == ["0", "1"]


def test_nothing_left_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="of 1 rows none is left. Why they were dropped: too_few_words 1"):
        run(tmp_path, RULES, WEB, [("http://a/0", "short")])
