"""The filter's rules, one row each; and that many rows are judged as each is alone."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import filter
from tasks.filter import filter_rows
from tasks.filtering import repeats
from tasks.filtering.facts import address_of, facts_of, said_in
from tasks.filtering.removals import NO_REMOVALS, read_removals
from tasks.request import StepFolders
from tasks.tables import SIZE, Drop, TableRow, TableWriter, read_counts, read_table
from tinygptv_core.columns import caption_turns
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe
from tinygptv_core.settings import Filter

RULES = Filter(schemes=("http", "https"), min_words=2, max_words=3, unique_urls=True)
WEB = Recipe(version=1, source="list", how="url", licence="none", citation="none", picture="url", turns=caption_turns)
FILES = replace(WEB, how="file", picture="image")


def run(folder, rules, recipe, pictures_and_captions, removals=NO_REMOVALS):
    """Keys kept, and (key, reason) dropped, of a table with these rows."""
    table = folder / "table"
    place = StepFolders(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    for path in (table, place.out, place.scratch, place.notes):
        path.mkdir()
    with TableWriter(table / "rows.parquet", TableRow) as writer:
        for number, (picture, caption) in enumerate(pictures_and_captions):
            url, file = (picture, None) if recipe.how == "url" else (None, picture)
            turns = json.dumps([["user", "what is to be seen here?"], ["assistant", caption]])
            writer.write(TableRow(key=str(number), url=url, file=file, turns=turns, split=None, group=None))
    filter_rows(rules, recipe, table, place, removals)
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
    with pytest.raises(ConfigError, match="of 1 row none is left. Why they were dropped: too_few_words 1"):
        run(tmp_path, RULES, WEB, [("http://a/0", "short")])


def changed_rules(**changes):
    return replace(RULES, **{"min_words": 0, "max_words": 99, **changes})


@pytest.mark.parametrize(
    ("rules", "rows", "dropped"),
    [
        (
            {"hosts": ("a.example",)},
            ["http://a.example/", "http://i.A.example:80/1", "http://ba.example/", "http://x@b/"],
            [("2", "not_allowed_host"), ("3", "not_allowed_host")],
        ),
        (
            {"not_hosts": ("a.example",)},
            ["http://b.example/", "http://u:1@a.example/", "http://a.example./", "http://b/a.example"],
            [("1", "refused_host"), ("2", "refused_host")],
        ),
        (
            {"min_characters": 3, "max_characters": 5},
            [("http://a/0", "a b"), ("http://a/1", "ab"), ("http://a/2", "abc de"), ("http://a/3", "\u00e9t\u00e9s")],
            [("1", "too_few_characters"), ("2", "too_many_characters")],
        ),
        (
            {"languages": ("en", "fr")},
            [
                ("http://a/0", "a man in a red shirt with a dog"),
                ("http://a/1", "ein mann mit rotem hemd und einem hund"),
                ("http://a/2", "un homme avec un chien dans la rue"),
            ],
            [("1", "other_language")],
        ),
        (
            {"unique_captions": True},
            [("http://a/0", "one dog"), ("http://a/1", "one dog"), ("http://a/2", "two dogs")],
            [("1", "repeated_caption")],
        ),
    ],
)
def test_a_rule_that_is_set_drops_its_rows(tmp_path, rules, rows, dropped):
    rows = [row if isinstance(row, tuple) else (row, "a dog") for row in rows]
    assert run(tmp_path, changed_rules(**rules), WEB, rows)[1] == dropped


def test_an_unknown_language_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no language xx. "):
        run(tmp_path, changed_rules(languages=("xx",)), WEB, [("http://a/0", "a dog")])


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"not_hosts": ("a.example", "https://b.example")}, "not_hosts 'https://b.example': give the host alone"),
        ({"not_hosts": ("*.a.example",)}, r"not_hosts '\*.a.example': give the host alone"),
        ({"hosts": ("a.example:8080",)}, "hosts 'a.example:8080': give the host alone"),
        ({"hosts": ("[::1]:80",)}, r"hosts '\[::1\]:80': give the host alone"),
        ({"hosts": ("",)}, "hosts '': give the host alone"),
        ({"schemes": ("http", "ftp")}, "schemes has 'ftp'; pictures are fetched by http and https"),
        ({"languages": ("English",)}, "languages has 'English'; a language has its code of ISO 639"),
    ],
)
def test_a_word_that_fits_no_row_is_refused(rules, said):
    with pytest.raises(ConfigError, match=said):
        changed_rules(**rules)


def test_a_host_of_the_rules_may_be_an_address():
    assert changed_rules(hosts=("::1", "[2001:db8::1]", "10.0.0.5", "localhost"))


def test_a_removal_list_takes_urls_and_hosts(tmp_path):
    removals = replace(NO_REMOVALS, urls=frozenset({"http://a/1"}), hosts=frozenset({"b.example"}))
    rows = [(url, "a dog") for url in ("http://a/0", "http://a/1", "http://i.b.example/2", "http://c/b.example")]
    kept, dropped = run(tmp_path, changed_rules(), WEB, rows, removals)
    assert (kept, dropped) == (["0", "3"], [("1", "removed_url"), ("2", "removed_host")])


@pytest.mark.parametrize(
    ("listed", "host", "is_removed"),
    [
        ("xn--bcher-kva.example", "b\u00fccher.example", True),
        ("b\u00fccher.example", "i.XN--BCHER-KVA.example", True),
        ("a.example", "\uff41\uff0eexample", True),
        ("localhost", "localhost:80", True),
        ("::1", "[0:0::1]:80", True),
        ("a.example", "b\u00fccher.example", False),
    ],
)
def test_a_removed_host_is_one_however_it_is_spelled(tmp_path, listed, host, is_removed):
    (tmp_path / "removals.txt").write_text(listed)
    rows = [(f"http://{host}/1.jpg", "a dog"), ("http://other.example/1.jpg", "a dog")]
    _, dropped = run(tmp_path, changed_rules(), WEB, rows, read_removals(tmp_path / "removals.txt"))
    assert dropped == [("0", "removed_host")] * is_removed


def test_hosts_of_the_rules_are_spelled_in_any_way(tmp_path):
    rows = [
        ("http://xn--bcher-kva.example/0", "a dog"),
        ("http://b\u00fccher.example/1", "a dog"),
        ("http://a/2", "a dog"),
    ]
    rules = changed_rules(hosts=("B\u00fccher.example",))
    assert run(tmp_path, rules, WEB, rows) == (["0", "1"], [("2", "not_allowed_host")])


def test_a_size_that_the_list_says_is_looked_at(tmp_path):
    table = tmp_path / "table"
    place = StepFolders(out=tmp_path / "out", scratch=tmp_path / "scratch", notes=tmp_path / "notes")
    for path in (table, place.out, place.scratch, place.notes):
        path.mkdir()
    with TableWriter(table / "rows.parquet", TableRow, SIZE) as writer:
        for number, (width, height) in enumerate([(100, 50), (100, 31), (None, 10), (100, 33)]):
            turns = json.dumps([["assistant", "a dog"]])
            row = {"key": f"{number}", "url": f"http://a/{number}", "file": None, "turns": turns}
            writer.write(TableRow(**row, split=None, group=None, width=width, height=height))
    filter_rows(changed_rules(min_side=32, max_aspect=3.0), WEB, table, place, NO_REMOVALS)
    assert [row.width for row in read_table(place.out / "rows.parquet", TableRow)] == [100, None]
    dropped = [(row.reason, row.detail) for row in read_table(place.out / "dropped.parquet", Drop)]
    assert dropped == [("too_small", "100 x 31 pixels"), ("too_elongated", "100 x 33 pixels")]


def test_an_overview_shows_hosts_and_samples_of_what_was_kept_and_dropped(tmp_path):
    rows = [("http://a/0", "two words"), ("http://a/0", "once more"), ("http://b/1", "one"), ("ftp://b/2", "two words")]
    run(tmp_path, RULES, WEB, rows)
    overview = json.loads((tmp_path / "notes" / "filter.json").read_text())
    assert overview["kept"] == 1
    assert overview["dropped"] == {"not_allowed_scheme": 1, "repeated_url": 1, "too_few_words": 1}
    assert overview["hosts"] == {
        "a": {"rows": 2, "kept": 1, "repeated_url": 1},
        "b": {"rows": 2, "kept": 0, "not_allowed_scheme": 1, "too_few_words": 1},
    }
    assert [sample["key"] for sample in overview["samples"]["kept"]] == ["0"]
    assert overview["samples"]["repeated_url"][0]["detail"] == "as row 000000000"


def test_repeats_are_found_in_parts_of_what_fits_into_memory(tmp_path, monkeypatch):
    """Of 300 URLs every third is that of the row before it; 16 hashes are held at once, and 7 rows."""
    monkeypatch.setattr(repeats, "PART_HASHES", 16)
    monkeypatch.setattr(filter, "BATCH_ROWS", 7)
    rows = [(f"http://a/{number - (number % 3 == 2)}", "two words") for number in range(300)]
    _, dropped = run(tmp_path, RULES, WEB, rows)
    assert dropped == [(str(number), "repeated_url") for number in range(2, 300, 3)]


URLS = st.builds(
    "".join,
    st.lists(
        st.sampled_from(["http", "https", "HTTP", "ftp", "://", ":", "/", "//", "a.b", "B", "@", "[", "]", "?", "#"])
        | st.sampled_from([" ", "\t", "\n", "%", "\\", "80", "x", "\u00e9", "\u2100", "_", "-", "..", "::1", "\x00"]),
        max_size=8,
    ),
) | st.sampled_from(["http://a.b:80/x", "https://a", "http://user:pw@h/", "http://[::1]/"])


@settings(max_examples=100, derandomize=True, deadline=None)
@given(urls=st.lists(URLS | st.none(), min_size=1, max_size=20))
def test_addresses_in_columns_are_those_of_each_alone(urls):
    batch = pa.record_batch({"url": pa.array(urls, pa.string()), "turns": ['[["assistant", "a"]]'] * len(urls)})
    known = facts_of(RULES, batch)
    alone = [address_of(RULES, url) for url in urls]
    assert [known.host_at(place) for place in range(len(urls))] == [host for host, _ in alone]
    assert known.bad_urls == {place: fault for place, (_, fault) in enumerate(alone) if fault}


SAID = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.text('ab \t\u00e9\u00a0"\\]', max_size=12)), max_size=3
)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    conversations=st.lists(
        SAID | st.text("ab ", max_size=8).map(lambda said: [("assistant", said)]), min_size=1, max_size=20
    )
)
def test_words_in_columns_are_those_of_each_alone(conversations):
    turns = [json.dumps(said, ensure_ascii=False) for said in conversations]
    batch = pa.record_batch({"url": pa.array([None] * len(turns), pa.string()), "turns": turns})
    known = facts_of(RULES, batch)
    assert list(zip(known.words.tolist(), known.characters.tolist(), strict=True)) == [said_in(item) for item in turns]
    spoken = [[text for role, text in said if role == "assistant"] for said in conversations]
    assert [said_in(item) for item in turns] == [
        (sum(len(text.split()) for text in texts), sum(map(len, texts))) for texts in spoken
    ]
