"""That every way of the data benchmark does the same work; not how fast anything is."""

import csv
import json

import pytest

from benchmarks import data
from benchmarks.data_lists import CSV_FILE, KEPT_FILE, LIST_FILE, filter_conventionally, write_list, write_table
from tasks.tables import TableRow, read_table

COUNT = 2_000


def said(path):
    return [(row.url, json.loads(row.turns)[0][1]) for row in read_table(path, TableRow)]


def cells(path):
    with path.open(newline="") as file:
        return [(record["url"], record["caption"]) for record in csv.DictReader(file)]


def test_both_ways_convert_and_filter_to_the_same_rows(tmp_path):
    write_table(tmp_path, COUNT)
    assert cells(tmp_path / CSV_FILE) == said(tmp_path / "rows" / "out" / "rows.parquet")
    filter_conventionally(tmp_path)
    data.FILTERING.ways["ours"](tmp_path)
    kept = said(tmp_path / "filter" / "out" / "rows.parquet")
    assert cells(tmp_path / KEPT_FILE) == kept and COUNT * 0.9 < len(kept) < COUNT


def test_the_list_is_as_long_as_was_asked_for(tmp_path):
    write_list(tmp_path, 100)
    records = json.loads((tmp_path / LIST_FILE).read_text())
    assert len(records) == 100 and {frozenset(record) for record in records} == {frozenset({"url", "caption"})}


def test_goals_name_ways_that_there_are():
    for case in data.CASES.values():
        assert case.goals.keys() <= case.ways.keys()


def test_a_table_is_printed(capsys):
    assert data.main(["--case", "list conversion", "--units", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == list(data.CONVERSION.ways)
    with pytest.raises(SystemExit):
        data.main(["--case", "none"])
