"""Lists of every form and packing; whatever bytes they hold, every record is read, counted as broken, or refused."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import threading
import tracemalloc
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.reading import json_arrays, list_columns, lists
from tasks.reading.captions import wanted_of
from tasks.reading.json_arrays import Malformed
from tasks.reading.list_columns import BREAK, Columns, WantedColumns, text_columns
from tasks.reading.list_files import copy_lists, lists_named, state_of
from tasks.reading.lists import read_list, read_pieces
from tasks.request import StepFolders
from tasks.rows import check_list, rows_of, rows_of_lists, table_of
from tasks.tables import SIZE, Drop, TableRow, columns_of, read_counts, read_table
from tests.ports import kept_port
from tests.tasks.json_values import FUZZ, VALUES, wanted, written
from tinygptv_core.columns import caption_turns
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe

WEB = Recipe(version=1, source="list", how="url", licence="none", citation="none", picture="url", turns=caption_turns)
RECORDS = [{"url": f"http://a.example/{n}.jpg", "caption": f"dog number {n}"} for n in range(100)]


def zst(data):
    with pa.BufferOutputStream() as out:
        with pa.CompressedOutputStream(out, "zstd") as packed:
            packed.write(data)
        return out.getvalue().to_pybytes()


def set_everywhere(monkeypatch, name, value):
    """Give another value to a number that both the readers of arrays and of lines go by."""
    for module in (json_arrays, lists):
        monkeypatch.setattr(module, name, value)


def in_pieces(path):
    """The records that `read_pieces` gives, after a look at its tables."""
    found = []
    for piece in read_pieces(path, WantedColumns(texts=("url", "caption"), numbers=("width",))):
        found.extend(piece)
        if isinstance(piece, Columns):
            records = [(record.get("url"), record.get("caption")) for record in piece]
            columns = [piece.table.column(name).to_pylist() for name in ("url", "caption")]
            assert list(zip(*columns, strict=True)) == records
    return found


def has_tables(path):
    return all(isinstance(piece, Columns) for piece in read_pieces(path, WantedColumns(texts=("url", "caption"))))


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}


def step_folders(folder):
    made = StepFolders(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")
    for path in (made.out, made.scratch, made.notes):
        path.mkdir(parents=True)
    return made


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_packed_list_is_read_and_one_that_is_cut_is_refused(tmp_path, packing, form):
    text = json.dumps(RECORDS) if form == "json" else "\n".join(map(json.dumps, RECORDS))
    path, data = tmp_path / f"a.{form}.{packing}", PACKERS[packing](text.encode())
    path.write_bytes(data)
    assert list(read_list(path)) == RECORDS
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ConfigError, match="is cut off"):
        list(read_list(path))


@pytest.mark.parametrize("packing", ["bz2", "xz"])
def test_a_list_in_several_streams_is_read_whole_or_refused(tmp_path, packing):
    path, pack = tmp_path / f"a.jsonl.{packing}", PACKERS[packing]
    texts = ["".join(json.dumps(record) + "\n" for record in RECORDS[begin : begin + 50]).encode() for begin in (0, 50)]
    first, second = map(pack, texts)
    for between in (b"", bytes(4), bytes(1 << 18)):
        path.write_bytes(first + between + second + between)
        assert list(read_list(path)) == RECORDS
    damaged = second[:30] + bytes([second[30] ^ 255]) + second[31:]
    for rest in (damaged, damaged + first, second[:3], second[:-1], b"garbage", bytes(4) + b"garbage"):
        path.write_bytes(first + rest)
        begin = len(first) + len(rest) - len(rest.lstrip(b"\0"))
        with pytest.raises(ConfigError, match=f"is cut off or damaged .* the stream that begins at byte {begin}"):
            list(read_list(path))


def test_a_piece_whose_places_32_bits_cannot_hold_is_not_cut_at_its_quotes(monkeypatch):
    text, wanted = "\n".join(map(json.dumps, RECORDS)), WantedColumns(texts=("url", "caption"))
    monkeypatch.setattr(list_columns, "_MOST_BYTES", len(text) + 1)
    assert text_columns(text, BREAK, wanted) is not None
    monkeypatch.setattr(list_columns, "_MOST_BYTES", len(text))
    assert text_columns(text, BREAK, wanted) is None


def test_records_with_escapes_are_read_in_columns(tmp_path):
    records = [{"url": f"http://a.example/{n}\\", "caption": 'a "d\u00f6g"\n'} for n in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert has_tables(tmp_path / "a.jsonl")
    assert in_pieces(tmp_path / "a.jsonl") == records


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS[0], indent=1) + "\n" + json.dumps(RECORDS[1], indent=1) + "\n",
        f" {json.dumps(RECORDS[0])}\n{{{json.dumps(RECORDS[1])}\n",
        f' {json.dumps(RECORDS[0])}\n{{{json.dumps(RECORDS[1])[:-2]}\u00e9"}}\n',
        json.dumps(RECORDS[0]) + "\n",
        json.dumps(RECORDS[0]) + "\r\n" + json.dumps(RECORDS[1]) + "\r\n",
    ],
)
def test_lines_in_pieces_are_the_records_of_the_lines(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text, newline="")
    assert in_pieces(tmp_path / "a.jsonl") == list(read_list(tmp_path / "a.jsonl"))


def test_lines_and_parquet_are_read_in_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        assert has_tables(path)
        assert in_pieces(path) == RECORDS


def test_a_line_that_holds_two_records_is_broken_though_another_is_blank(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"url": "a"} {"url": "b"}\n\n{"url": "c"}\n')
    assert [type(record) for record in in_pieces(tmp_path / "a.jsonl")] == [Malformed, dict]


def test_parquet_with_a_column_twice_is_read_by_its_records(tmp_path):
    table = pa.table([["a"], ["b"], ["c"]], names=["url", "url", "caption"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert in_pieces(tmp_path / "a.parquet") == [{"url": "b", "caption": "c"}]


def test_parquet_whose_text_is_none_is_refused(tmp_path):
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"url": bad, "caption": bad}), tmp_path / "a.parquet")
    for read in (in_pieces, lambda path: list(read_list(path))):
        with pytest.raises(ConfigError, match="cannot be read as parquet"):
            read(tmp_path / "a.parquet")


FAR = {"us": 2**62, "ns": 1}  # in the year 148,000, and a billionth of a second, which Python's times have not


@pytest.mark.parametrize("unit", FAR)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_a_time_in_parquet_that_python_cannot_hold_harms_no_other_column(tmp_path, unit, text):
    times = pa.array([FAR[unit], None], pa.timestamp(unit))
    urls, captions = (pa.array([record[name] for record in RECORDS[:2]], text) for name in ("url", "caption"))
    path, recipe = tmp_path / "a.parquet", replace(WEB, size=SIZE)
    pq.write_table(pa.table({"url": urls, "caption": captions, "seen": times, "width": times}), path)
    assert check_list(path, recipe) == 2
    place = step_folders(tmp_path)
    rows_of_lists(recipe, "list", [path], place)
    assert [row.url for row in read_table(place.out / "rows.parquet", TableRow)] == [r["url"] for r in RECORDS[:2]]


def test_a_caption_in_parquet_that_python_cannot_hold_is_a_drop(tmp_path):
    table = pa.table({"url": ["a", "b"], "caption": pa.array([2**62, None], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "b.parquet")
    place = step_folders(tmp_path)
    rows_of_lists(WEB, "list", [tmp_path / "a.parquet", tmp_path / "b.parquet"], place)
    assert read_counts(place.out) == {"rows": 102, "kept": 100, "dropped": {"broken_record": 2}}
    with pytest.raises(ConfigError, match="of 2 records none can be used"):
        check_list(tmp_path / "a.parquet", WEB)


LONG = {
    "a.jsonl": ('{"url": "a"}\n{"url": "', "the line that begins at byte 13"),
    "a.csv": ("url,caption\na,b\nc,", "line 3"),
    "a.tsv": ("", "line 1"),
    "a.json": ('[{"url": "a"}, {"url": "', "record 1, at byte 15,"),
}


@pytest.mark.parametrize("name", LONG)
def test_a_list_without_an_end_of_its_lines_is_refused_before_it_is_read_whole(tmp_path, monkeypatch, name):
    """What no list is must not fill memory: of 16 million letters, which gzip makes of a few bytes, 100 are enough."""
    set_everywhere(monkeypatch, "MAX_RECORD_CHARACTERS", 100)
    set_everywhere(monkeypatch, "CHUNK_CHARACTERS", 50)
    begin, said = LONG[name]
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(begin.encode() + b"x" * (1 << 24)))
    tracemalloc.start()
    with pytest.raises(ConfigError, match=f"{said} is longer than 100 characters"):
        list(read_list(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


@pytest.mark.parametrize("text", ['[{"url": "a"}, {"url": "b"}]', '\n[\n{"url": "a"},\n{"url": "b"}\n]\n'])
def test_an_array_that_is_called_lines_is_refused_with_the_name_that_it_needs(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ConfigError, match="is a JSON array, .* its name must end in .json$"):
        list(read_list(tmp_path / "a.jsonl"))


def test_a_long_list_is_refused_with_the_byte_where_it_ends(tmp_path, monkeypatch):
    set_everywhere(monkeypatch, "CHUNK_CHARACTERS", 500)
    text = json.dumps([{**record, "caption": "\u00e9t\u00e9"} for record in RECORDS], ensure_ascii=False).encode()
    for size in (len(text) - 1, len(text) - 2, len(text) - 40, 3_000):
        (tmp_path / "a.json").write_bytes(text[:size])
        with pytest.raises(ConfigError, match=f"ends at byte {size}"):
            list(read_list(tmp_path / "a.json"))


PUT_IN = ["", "", "", "\\", '"', "\\u00e9", "\\ud800", "\n", "\x7f", '"}, {"', '", "', "}", ",", " ", "1"]
ALIKE = st.fixed_dictionaries({"url": st.text(max_size=6), "caption": st.text('a"\\,:{}\u00e9', max_size=6)})


@settings(FUZZ, max_examples=300)
@given(
    records=st.lists(ALIKE, min_size=2, max_size=6),
    form=st.sampled_from(["json", "jsonl"]),
    is_ascii=st.booleans(),
    indent=st.sampled_from([None, None, 1]),
    cut=st.integers(0, 200),
    other=st.sampled_from(PUT_IN),
    size=st.integers(30, 300),
)
def test_records_written_alike_are_read_as_each_alone_or_refused(
    tmp_path, monkeypatch, records, form, is_ascii, indent, cut, other, size
):
    set_everywhere(monkeypatch, "CHUNK_CHARACTERS", size)
    written = [json.dumps(record, ensure_ascii=is_ascii, indent=indent) for record in records]
    text = f"[{', '.join(written)}]" if form == "json" else "".join(line + "\n" for line in written)
    path, data = tmp_path / f"a.{form}", (text[:cut] + other + text[cut:]).encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    try:
        expected = list(read_list(path))
    except ConfigError:
        with pytest.raises(ConfigError):
            in_pieces(path)
    else:
        assert in_pieces(path) == expected
        has_broken = any(isinstance(record, Malformed) for record in expected)
        assert form == "jsonl" or has_broken == (wanted(data) is None)
        assert form == "jsonl" or has_broken or expected == wanted(data)


@FUZZ
@given(lines=st.lists(VALUES.map(lambda value: written(value, None)) | st.binary(max_size=12), max_size=8))
def test_any_lines_are_records_or_broken_one_by_one(tmp_path, lines):
    data = b"".join(line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for line in lines)
    assume(not re.match(rb"\s*\[\s*\{", data))  # an array, and refused
    (tmp_path / "a.jsonl").write_bytes(data)
    try:
        texts = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        with pytest.raises(ConfigError, match="UTF-8|cut off"):
            list(read_list(tmp_path / "a.jsonl"))
        return
    if data:
        found = list(read_list(tmp_path / "a.jsonl"))
        assert len(found) == sum(not text.isspace() and text != "" for text in texts)
        assert in_pieces(tmp_path / "a.jsonl") == found


@FUZZ
@given(table=st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=3), max_size=6), form=st.sampled_from("ct"))
def test_any_rows_of_a_csv_come_back_or_are_broken(tmp_path, table, form):
    """Rows of two cells are records, rows of three are broken, whatever their texts hold."""
    encodable = [[cell.encode(errors="replace").decode().replace("\x00", "") for cell in row] for row in table]
    rows = [[cell.translate({9: " ", 10: " ", 13: " "}) if form == "t" else cell for cell in row] for row in encodable]
    file = io.StringIO()
    if form == "c":
        csv.writer(file).writerows([["url", "caption"], *rows])  # its own line end, or 3.11 does not quote a lone \r
    else:
        file.writelines("\t".join(row) + "\n" for row in [["url", "caption"], *rows])
    path = tmp_path / ("a.csv" if form == "c" else "a.tsv")
    path.write_text(file.getvalue(), encoding="utf-8", newline="")
    found = list(read_list(path))
    assert len(found) == len(rows)
    for record, row in zip(found, rows, strict=True):
        assert isinstance(record, Malformed) if len(row) == 3 else record == {"url": row[0], "caption": row[1]}


SPECIAL = ["w " * 60, "\ud800", "", "}, {", "}\n{"]
TEXTS = st.text(max_size=30) | st.text('aB .!\\"\t;~\x7f', max_size=30) | st.sampled_from(SPECIAL)
ODD = st.none() | st.integers() | st.booleans() | st.lists(st.integers(), max_size=2) | TEXTS
CAPTIONED = st.fixed_dictionaries({"url": ODD | st.just("http://a/b"), "caption": ODD}, optional={"width": ODD})


@FUZZ
@given(
    records=st.lists(CAPTIONED | ODD | st.just(Malformed(detail="line 3")), min_size=1, max_size=12),
    sized=st.booleans(),
)
def test_many_records_become_what_each_becomes_alone(records, sized):
    recipe = replace(WEB, size=SIZE) if sized else WEB
    alone = [next(rows_of(recipe, 5 + number, record)) for number, record in enumerate(records)]
    table, drops = table_of(recipe, 5, records)
    assert drops == [row for row in alone if isinstance(row, Drop)]
    kept = columns_of([row for row in alone if isinstance(row, TableRow)], TableRow, SIZE)
    assert table.to_pylist() == kept.to_pylist()
    assert len(table) + len(drops) == len(records)


@FUZZ
@given(
    records=st.lists(CAPTIONED | ODD, min_size=1, max_size=12),
    sized=st.booleans(),
    form=st.sampled_from(["json", "jsonl"]),
)
def test_a_list_becomes_what_each_of_its_records_becomes(tmp_path, monkeypatch, records, sized, form):
    recipe, path = replace(WEB, size=SIZE) if sized else WEB, tmp_path / f"a.{form}"
    path.write_text(json.dumps(records) if form == "json" else "".join(json.dumps(item) + "\n" for item in records))
    alone = [next(rows_of(recipe, number, record)) for number, record in enumerate(read_list(path))]
    made, position = [], 0
    for piece in read_pieces(path, wanted_of(recipe)):
        table, drops = table_of(recipe, position, piece)
        made += sorted([*(TableRow(**row) for row in table.to_pylist()), *drops], key=lambda row: row.key)
        position += len(piece)
    assert made == alone


def test_several_lists_are_one_table_and_a_drop_says_where_it_was(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps([RECORDS[0], {"url": "x"}]))
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORDS[1]) + "\n{\n")
    place = step_folders(tmp_path)
    rows_of_lists(WEB, "list", [tmp_path / "b.json", tmp_path / "a.jsonl"], place)
    assert [row.key for row in read_table(place.out / "rows.parquet", TableRow)] == ["000000000", "000000002"]
    dropped = list(read_table(place.out / "dropped.parquet", Drop))
    assert [row.key for row in dropped] == ["000000001", "000000003"]
    assert dropped[0].detail == "b.json, record 1: there is no 'caption'"
    assert dropped[1].detail.startswith("a.jsonl, record 1: line 2 is not JSON")
    assert read_counts(place.out) == {"rows": 4, "kept": 2, "dropped": {"broken_record": 2}}


def test_a_size_is_in_the_table_where_the_list_says_it(tmp_path):
    check_sizes(tmp_path / "mixed", [(640, "480"), (3.0, None), (True, -1), ("x", 10**12)])
    check_sizes(tmp_path / "texts", [("640", "480"), ("3", ""), ("x", "-1"), ("none", "1" * 12)])


def check_sizes(folder, sizes):
    place = step_folders(folder)
    records = [{**RECORDS[0], "width": width, "height": height} for width, height in sizes]
    (folder / "a.json").write_text(json.dumps(records))
    rows_of_lists(replace(WEB, size=SIZE), "list", [folder / "a.json"], place)
    found = [(row.width, row.height) for row in read_table(place.out / "rows.parquet", TableRow)]
    assert found == [(640, 480), (3, None), (None, None), (None, None)]


def test_lists_are_named_by_path_commas_pattern_folder_and_address(tmp_path):
    for name in ("b.json", "a.csv", "a,b.json", "notes.txt"):
        (tmp_path / name).write_text("x")
    paths = [str(tmp_path / name) for name in ("a,b.json", "a.csv", "b.json")]
    assert lists_named(str(tmp_path)) == tuple(paths)
    assert lists_named(paths[0]) == (paths[0],)
    assert lists_named(f"{paths[2]}, {paths[1]}") == (paths[2], paths[1])
    assert lists_named(f"{tmp_path}/*.json") == (paths[0], paths[2])
    assert lists_named(f"file://{paths[1]}") == (paths[1],)
    (tmp_path / "my list.json").touch()
    assert lists_named(f"file://{tmp_path}/my%20list.json") == (f"{tmp_path}/my list.json",)
    assert lists_named(f"{tmp_path}/none-*.json") == (f"{tmp_path}/none-*.json",)


@pytest.mark.parametrize(
    "typed", ["", " ", ",", " , ", "memory://far/none-*.jsonl", "a.json, memory://far/none-*.jsonl"]
)
def test_what_names_no_list_is_refused(typed):
    """Else the project's own drawn list would take its place."""
    with pytest.raises(ConfigError, match="names no list"):
        lists_named(typed)


def test_a_folder_without_a_list_says_what_is_looked_for(tmp_path):
    (tmp_path / "1.jpg").write_text("x")
    said = f"{tmp_path} holds no list; a list's name ends in .json, .jsonl"
    with pytest.raises(ConfigError, match=re.escape(said)):
        lists_named(str(tmp_path))


def test_lists_elsewhere_are_copied_and_known_by_what_they_are(tmp_path):
    files = fsspec.filesystem("memory")
    for number in (0, 1):
        files.pipe(f"/far/{number}.jsonl", json.dumps(RECORDS[number]).encode())
    names = lists_named("memory://far/*.jsonl")
    assert names == ("memory:///far/0.jsonl", "memory:///far/1.jsonl")
    before = state_of(names[0])
    assert before == state_of(names[0]) and before["address"] == names[0]
    place = step_folders(tmp_path)
    copy_lists(names, place)
    copied = sorted(place.out.iterdir())
    assert [path.name for path in copied] == ["00000-0.jsonl", "00001-1.jsonl"]
    assert [record for path in copied for record in read_list(path)] == RECORDS[:2]
    files.pipe("/far/0.jsonl", b"{}")
    assert state_of(names[0]) != before


class Lists(BaseHTTPRequestHandler):
    """One list at every path, with the headers that are set."""

    headers_told: dict[str, str] = {}  # noqa: RUF012
    body = b""

    def do_HEAD(self):
        self.send_response(200)
        for name, value in {"Content-Length": str(len(self.body)), **self.headers_told}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


@pytest.fixture
def web_list():
    with ThreadingHTTPServer(("127.0.0.1", 0), Lists) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.jsonl"
        server.shutdown()


@pytest.mark.parametrize("version", ["ETag", "Last-Modified", None])
def test_a_list_on_the_web_that_changes_is_another_though_its_size_is_the_same(monkeypatch, web_list, version):
    """A server that tells of no version is asked for the list itself."""
    states = []
    for body in (b'{"url": "a"}', b'{"url": "b"}', b'{"url": "b"}'):
        monkeypatch.setattr(Lists, "body", body)
        monkeypatch.setattr(Lists, "headers_told", {version: f"version {body!r}"} if version else {})
        states.append(state_of(web_list))
    assert states[0] != states[1] == states[2]
    assert states[0].keys() == {"address", "size", version or "sha256"}


def test_an_address_that_cannot_be_read_is_refused():
    with pytest.raises(ConfigError, match=r"a\.jsonl cannot be read: .*[Cc]onnect"):
        state_of(f"http://127.0.0.1:{kept_port()}/a.jsonl")
    with pytest.raises(ConfigError, match="memory:///far/none.jsonl cannot be read: FileNotFoundError"):
        state_of("memory:///far/none.jsonl")
    with pytest.raises(ConfigError, match="has no known format"):
        state_of("memory:///far/list.docx")
    with pytest.raises(ConfigError, match="nowhere://a.json cannot be used"):
        lists_named("nowhere://a.json")
