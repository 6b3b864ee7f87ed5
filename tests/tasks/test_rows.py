"""A list becomes a table; a list that is unusable is refused before anything is built."""

import csv
import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.reading.captions import wanted_of
from tasks.reading.json_arrays import CHUNK_CHARACTERS
from tasks.reading.list_columns import Columns
from tasks.reading.lists import read_list, read_pieces
from tasks.request import StepFolders
from tasks.rows import check_list, rows
from tasks.tables import Drop, TableRow, read_counts, read_table
from tinygptv_core.columns import caption_turns, text_of
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe, Turn

WEB = Recipe(version=1, source="list", how="url", licence="none", citation="none", picture="url", turns=caption_turns)
RECORDS = [{"url": f"http://a.example/{n}.jpg", "caption": f"A dog, \u00e9t\u00e9 {n}!"} for n in range(3)]


def step_folders(folder):
    made = StepFolders(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    for path in (made.out, made.scratch, made.notes):
        path.mkdir(parents=True)
    return made


def as_table(path, delimiter):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["url", "caption"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)


WRITERS = {
    "a.json": lambda path: path.write_text(json.dumps(RECORDS, ensure_ascii=False), encoding="utf-8"),
    "spaced.json": lambda path: path.write_text(" \n" + json.dumps(RECORDS, indent=3) + "\n\n"),
    "marked.json": lambda path: path.write_bytes(b"\xef\xbb\xbf" + json.dumps(RECORDS).encode()),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
    "a.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, RECORDS))),
    "a.ndjson": lambda path: path.write_text("".join(json.dumps(record) + "\n\n" for record in RECORDS)),
    "a.csv": lambda path: as_table(path, ","),
    "a.TSV": lambda path: as_table(path, "\t"),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(RECORDS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert list(read_list(tmp_path / name)) == RECORDS


LAION = [{"SAMPLE_ID": str(n), "URL": record["url"], "TEXT": record["caption"]} for n, record in enumerate(RECORDS)]
LAION_WRITERS = {
    "a.json": lambda path: path.write_text(json.dumps(LAION, ensure_ascii=False), encoding="utf-8"),
    "numbers.json": lambda path: path.write_text(json.dumps([{**record, "n": 1} for record in LAION])),
    "a.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, LAION))),
    "a.csv": lambda path: path.write_text("URL,TEXT\n" + "".join(f'{r["URL"]},"{r["TEXT"]}"\n' for r in LAION)),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(LAION), path),
    "sized.parquet": lambda path: pq.write_table(pa.Table.from_pylist([{**r, "WIDTH": 7.0} for r in LAION]), path),
}


@pytest.mark.parametrize("name", LAION_WRITERS)
def test_columns_in_another_case_and_a_caption_called_text_give_the_same_rows(tmp_path, name):
    recipe = replace(WEB, size=("width", "height"))
    LAION_WRITERS[name](tmp_path / name)
    WRITERS["a.json"](tmp_path / "usual.json")
    assert check_list(tmp_path / name, recipe) == 3
    made = []
    for number, path in enumerate((tmp_path / name, tmp_path / "usual.json")):
        place = step_folders(tmp_path / str(number))
        rows(recipe, "list", path, place)
        made.append(list(read_table(place.out / "rows.parquet", TableRow)))
    assert made[0] == [replace(row, width=7 if name == "sized.parquet" else None) for row in made[1]]
    assert len(made[0]) == 3


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_such_columns_are_read_as_columns_too(tmp_path, name):
    LAION_WRITERS[name](tmp_path / name)
    first = next(iter(read_pieces(tmp_path / name, wanted_of(WEB))))
    assert isinstance(first, Columns)
    assert first.table.to_pylist() == RECORDS[: len(first)]


def test_a_list_whose_columns_have_their_names_is_read_by_these_alone(tmp_path):
    """A `TEXT` beside the caption is another column, as it was before names in another case were read."""
    records = [{**record, "TEXT": "x", "URL": "y", "WIDTH": 7} for record in RECORDS]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    place = step_folders(tmp_path)
    rows(replace(WEB, size=("width", "height")), "list", tmp_path / "a.parquet", place)
    found = list(read_table(place.out / "rows.parquet", TableRow))
    assert [(row.url, row.width) for row in found] == [(record["url"], None) for record in RECORDS]


def test_a_record_longer_than_what_is_read_at_once_comes_whole(tmp_path):
    records = [{"url": "u", "caption": "x" * (CHUNK_CHARACTERS - 20 + n), "n": 123456, "w": True} for n in range(40)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    assert list(read_list(tmp_path / "a.json")) == records


def test_a_record_becomes_a_row_and_what_is_none_a_drop(tmp_path):
    records = [
        {"url": " http://a.example/0.jpg ", "caption": "A red Dog!"},
        "no object",
        {"caption": "no url"},
        {"url": "", "caption": "an empty url"},
        {"url": None, "caption": "no url either"},
        {"url": "http://a.example/5.jpg"},
        {"url": "http://a.example/6.jpg", "caption": 7},
        {"url": "http://a.example/7.jpg", "caption": "half a pair \ud800"},
        {"url": "http://a.example/8.jpg", "caption": "two dogs"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(records))
    place = step_folders(tmp_path)
    rows(WEB, "list", tmp_path / "list.json", place)
    kept = list(read_table(place.out / "rows.parquet", TableRow))
    assert [(row.key, row.url, row.turns) for row in kept] == [
        ("000000000", "http://a.example/0.jpg", '[["assistant", "a red dog"]]'),
        ("000000008", "http://a.example/8.jpg", '[["assistant", "two dogs"]]'),
    ]
    dropped = list(read_table(place.out / "dropped.parquet", Drop))
    assert {row.reason for row in dropped} == {"broken_record"}
    assert [row.key[-1] + ": " + row.detail for row in dropped][:6] == [
        "1: a record is an object, not str",
        "2: there is no 'url'",
        "3: url is empty",
        "4: url is NoneType, not a text",
        "5: there is no 'caption'",
        "6: caption is int, not a text",
    ]
    assert read_counts(place.out) == {"rows": 9, "kept": 2, "dropped": {"broken_record": 7}}


def test_files_splits_and_groups_are_the_records_own(tmp_path):
    recipe = Recipe(
        version=1,
        source="a.json",
        how="file",
        licence="none",
        citation="none",
        picture="image",
        turns=lambda row: (Turn("user", text_of(row, "question")), Turn("assistant", text_of(row, "answer"))),
        split="split",
        group="type",
    )
    record = {"image": "1.jpg", "question": "How many?", "answer": "2", "split": "test", "type": 4}
    no_texts = [{**record, "split": "half a pair \ud800"}, {**record, "type": "\ud800"}]
    (tmp_path / "a.json").write_text(json.dumps([record, *no_texts]))
    place = step_folders(tmp_path)
    rows(recipe, "a", tmp_path / "a.json", place)
    turns = '[["user", "How many?"], ["assistant", "2"]]'
    wanted = TableRow(key="000000000", url=None, file="1.jpg", turns=turns, split="test", group="4")
    assert list(read_table(place.out / "rows.parquet", TableRow)) == [wanted]
    assert read_counts(place.out) == {"rows": 3, "kept": 1, "dropped": {"broken_record": 2}}


ASKED = Turn("user", "how many?")
TOLD = Turn("assistant", "two")


def told_by(folder, turns, records):
    """The drops of `records`, the last of which has the form of a data set whose `turns` is given."""
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text(json.dumps(records))
    recipe = Recipe(version=1, source="a.json", how="file", licence="none", citation="none", picture=None, turns=turns)
    place = step_folders(folder)
    rows(recipe, "lab_shapes", folder / "a.json", place)
    return [(row.reason, row.detail) for row in read_table(place.out / "dropped.parquet", Drop)]


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ((ASKED,), "turns are user; questions and answers must alternate"),
        ((TOLD, ASKED), "turns are assistant, user; questions and answers must alternate"),
        ((ASKED, ASKED, TOLD), "turns are user, user, assistant; questions and answers must alternate"),
        ((ASKED, Turn("choice", "two")), "turns are user; questions and answers must alternate"),
        ((Turn("user", 3), TOLD), "Turn(role='user', text=3, also=()) says something that is no text"),
        (
            (ASKED, Turn("assistant", "a", "2")),
            "Turn(role='assistant', text='a', also='2') says something that is no text",
        ),
        ((ASKED, Turn("assistant", " ", ("",))), "an answer is empty"),
        (
            (Turn("human", "how many?"), Turn("gpt", "two")),
            "a turn has the role 'human'; there are user, assistant, choice",
        ),
        ([["user", "how many?"]], "turns are [['user', 'how many?']]; they must be a tuple of Turn"),
        ("how many?", "turns are 'how many?'; they must be a tuple of Turn"),
        (None, "nothing is said in it"),
    ],
)
def test_turns_that_could_not_be_trained_on_are_dropped(tmp_path, said, detail):
    def turns(row):
        return said if row["is_odd"] else (ASKED, TOLD)

    assert told_by(tmp_path, turns, [{"is_odd": True}, {"is_odd": False}]) == [("broken_record", detail)]
    with pytest.raises(
        ConfigError, match="no record of 1 has the form of lab_shapes: broken_record 1. The first: "
    ) as told:
        told_by(tmp_path / "all", turns, [{"is_odd": True}])
    assert str(told.value).endswith(detail)


@pytest.mark.parametrize(
    "said",
    [
        (TOLD,),
        (Turn("assistant", ""),),
        (TOLD, ASKED, TOLD),
        (Turn("user", ""), TOLD),
        (ASKED, Turn("choice", "one"), Turn("choice", "two"), TOLD),
        (ASKED, Turn("assistant", "", ("two",))),
    ],
)
def test_turns_that_can_be_trained_on_stay(tmp_path, said):
    assert told_by(tmp_path, lambda row: said, [{}]) == []


def test_a_column_or_an_item_that_is_not_there_is_a_drop_and_any_other_failure_names_its_line(tmp_path):
    def turns(row):
        return ASKED, Turn("assistant", row["choices"][0].strip() * (4 // row["by"]))

    good = {"choices": ["two"], "by": 4}
    assert told_by(tmp_path / "1", turns, [{**good, "choices": []}, {**good, "choices": [2]}, good]) == [
        ("broken_record", "list index out of range"),
        ("broken_record", "'int' object has no attribute 'strip'"),
    ]
    line = turns.__code__.co_firstlineno + 1
    what = rf"lab_shapes: its recipe failed at row 000000001: ZeroDivisionError: .*test_rows.py, line {line}\)"
    with pytest.raises(ConfigError, match=what + r"\. The record: {'choices': \['two'\], 'by': 0}"):
        told_by(tmp_path / "2", turns, [good, {**good, "by": 0}])


def test_a_recipe_that_fails_to_make_samples_is_named_too(tmp_path):
    (tmp_path / "a.json").write_text("[{}]")
    with pytest.raises(ConfigError, match=r"web: its recipe failed at row 000000000: ZeroDivisionError"):
        rows(replace(WEB, samples=lambda row: 1 // 0), "web", tmp_path / "a.json", step_folders(tmp_path))


def test_the_same_list_gives_the_same_bytes_over_what_a_killed_build_left(tmp_path):
    WRITERS["a.json"](tmp_path / "a.json")
    first, second = step_folders(tmp_path / "1"), step_folders(tmp_path / "2")
    (second.out / "rows.parquet").write_bytes(b"half a table")
    (second.out / "other").mkdir()
    for place in (first, second):
        rows(WEB, "list", tmp_path / "a.json", place)
    assert sorted(path.name for path in second.out.iterdir()) == ["counts.json", "dropped.parquet", "rows.parquet"]
    for path in first.out.iterdir():
        assert path.read_bytes() == (second.out / path.name).read_bytes()


TEXT = json.dumps(RECORDS, ensure_ascii=False)
REFUSED = {
    "empty.json": (b"", "is empty"),
    "blank.json": (b" \n ", "is empty"),
    "none.json": (b"[]", "holds no record"),
    "object.json": (b'{"url": "a"}', "is not a list: it begins with '{'"),
    "text.json": (b"hello", "is not a list: it begins with 'h'"),
    "cut.json": (TEXT.encode()[:-30], f"record 2 is cut off: it starts at byte {TEXT.encode().index(b'{', 120)}"),
    "ends.json": (TEXT.encode()[:-30], f"the file ends at byte {len(TEXT.encode()) - 30}"),
    "comma.json": (b'[{"url": "a", "caption": "b"},', "record 1 is cut off"),
    "open.json": (b'[{"url": "a", "caption": "b"}', "it ends at byte 29, after record 0"),
    "literal.json": (b'[{"url": "a", "caption": tru', "ends at byte 28"),
    "wrong.json": (b'[{"url": "a", "caption": b}]', "record 0, at byte 1, is not JSON at byte 25"),
    "mark.json": (b'[{"url": "a"} {"url": "b"}]', "is followed by '{', not by a comma, at byte 14"),
    "more.json": (b"[1] [2]", "the list ends before byte 4, but more follows"),
    "columns.json": (b'[{"link": "a", "text": "b"}]', "has no column url. Its columns are: link, text"),
    "caption.json": (b'[{"url": "a", "words": "b"}]', "has no column caption (or text). Its columns are: url, words"),
    "twice.json": (
        b'[{"URL": "a", "Url": "a", "text": "b"}]',
        "has several columns that may be url: URL, Url. Call one of them url",
    ),
    "headless.csv": (
        b"http://a.example/1.jpg,hello there\nhttp://a.example/2.jpg,a dog\n",
        "has no column url. Its columns are: http://a.example/1.jpg, hello there; its first line must name them",
    ),
    "numbers.json": (b"[1, 2]", "of 2 records none can be used. The first: a record is an object, not int"),
    "broken.json": (b'[{"url": 1, "caption": "b"}]', "The first: url is int, not a text"),
    "cut.jsonl": (b'{"url": "a", "caption": "b"}\n{"url": "a", "capt', "ends at byte 47, inside its last line"),
    "same.csv": (b"url,caption,caption\nhttp://a/1,a b,c d\n", "has several columns called caption; give each a name"),
    "columns.csv": (b"link,text\na,b\n", "has no column url. Its columns are: link, text"),
    "header.csv": (b"url,caption\n", "holds no record"),
    "quote.csv": (b'url,caption\na,b\nc,"d', "ends at byte 20, inside the quotes"),
    "cut.json.gz": (gzip.compress(TEXT.encode())[:-12], "is cut off"),
    "plain.json.gz": (TEXT.encode(), "is cut off or damaged"),
    "latin.json": ('["\u00e9"]'.encode("latin-1"), "is not UTF-8"),
    "character.json": ('["\u00e9'.encode()[:-1], "is cut off: it ends at byte 3"),
    "cut.parquet": (b"PAR1 and so on", "cannot be read as parquet"),
    "number.json": (f'[{{"n": {"9" * 5_000}}}]'.encode(), "record 0, at byte 1, cannot be read"),
    "list.docx": (b"x", "has no known format; a list's name ends in .json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unusable_list_is_refused_with_what_was_found(tmp_path, name):
    data, said = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as refusal:
        check_list(tmp_path / name, WEB)
    assert said in str(refusal.value) and str(tmp_path / name) in str(refusal.value)


def test_a_quote_in_a_tsv_is_a_word_like_others_and_a_caption_may_be_long(tmp_path):
    captions = ['"quoted at its start', "x" * 200_000]
    (tmp_path / "a.tsv").write_text("url\tcaption\n" + "".join(f"u\t{caption}\n" for caption in captions))
    assert [record["caption"] for record in read_list(tmp_path / "a.tsv")] == captions


def test_a_missing_list_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        check_list(tmp_path / "a.json", WEB)
    with pytest.raises(ConfigError, match="is a folder"):
        check_list(tmp_path, WEB)


def test_a_list_is_cut_off_wherever_it_is_cut(tmp_path):
    """After any byte short of the last: the message names that byte, and the list is never taken."""
    text = json.dumps([{"url": "u", "caption": 'a "\u00e9"\\', "n": -1.5e3, "w": [True, None]}])
    for size in range(1, len(text)):
        (tmp_path / "cut.json").write_text(text[:size])
        with pytest.raises(ConfigError, match=f"ends at byte {size}"):
            check_list(tmp_path / "cut.json", WEB)
    (tmp_path / "cut.json").write_text(text)
    assert check_list(tmp_path / "cut.json", WEB) == 1


BROKEN_LINES = {
    "a.jsonl": '{"url": "a", "caption": "b"}\n{"url": \n{"url": "c", "caption": "d"}\n',
    "number.jsonl": f'{{"url": "a", "caption": "b"}}\n{{"n": {"9" * 5_000}}}\n{{"url": "c", "caption": "d"}}\n',
    "a.csv": 'url,caption\na,b\nx,"a" dog\nc,"two\nlines"\n',
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_a_broken_line_in_a_good_list_is_one_drop(tmp_path, name):
    (tmp_path / name).write_text(BROKEN_LINES[name])
    assert check_list(tmp_path / name, WEB) == 3
    place = step_folders(tmp_path)
    rows(WEB, "list", tmp_path / name, place)
    assert read_counts(place.out) == {"rows": 3, "kept": 2, "dropped": {"broken_record": 1}}


@pytest.mark.parametrize("question", [Turn("user", "who?"), Turn("user", "", ("who?",))])
def test_a_question_that_a_prompt_has_no_place_for_is_a_mistake_of_the_recipe(tmp_path, question):
    asked = {"a dog": (Turn("assistant", "a dog"),), "who?": (question, Turn("assistant", "he"))}
    mixed = replace(WEB, prompts=("[vqa] {}", "[caption]"), turns=lambda row: asked[row["caption"]])
    (tmp_path / "list.json").write_text(
        json.dumps([{"url": f"http://a.example/{text}", "caption": text} for text in asked])
    )
    said = r"row 000000001: the prompt '\[caption\]' has no \{\}, where 'who\?' is to stand"
    with pytest.raises(ConfigError, match=said):
        rows(mixed, "mixed", tmp_path / "list.json", step_folders(tmp_path))
    rows(replace(mixed, prompts=("{}",)), "mixed", tmp_path / "list.json", step_folders(tmp_path / "mended"))
    assert read_counts(tmp_path / "mended" / "out")["kept"] == 2
