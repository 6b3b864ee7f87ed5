"""Arrays of JSON: whatever they hold, every record is read, is counted as broken, or the array is refused."""

import io
import json
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.reading import json_arrays
from tasks.reading.json_arrays import Malformed, read_array
from tasks.reading.list_columns import Columns, WantedColumns
from tests.tasks.json_values import FUZZ, VALUES, wanted, written
from tinygptv_core.plain import ConfigError

RECORDS = [{"url": f"http://a.example/{n}.jpg", "caption": f"dog number {n}"} for n in range(100)]
COLUMNS = WantedColumns(texts=("url", "caption"), numbers=("width",))


def array_of(data, wanted=None):
    """What `read_array` gives of a file of these bytes, or of this text."""
    file = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    return read_array(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), "a.json", wanted)


def records_of(data):
    """Its records; they are the same where columns are wanted."""
    found = list(chain.from_iterable(array_of(data)))
    assert str(list(chain.from_iterable(array_of(data, COLUMNS)))) == str(found)
    return found


@pytest.mark.parametrize("layout", [{}, {"separators": (",", ":")}, {"indent": 1}])
def test_records_are_the_same_wherever_the_pieces_end(monkeypatch, layout):
    """Records with what stands between two of them also inside, in a text and as a list of objects."""
    records = [{"a": "}, {", "b": [{"c": n}, {"c": n}], "d": 'x"},{"'} for n in range(20)] + [1, "}", []]
    for size in (1, 7, 40, 100, 10_000):
        monkeypatch.setattr(json_arrays, "CHUNK_CHARACTERS", size)
        assert records_of(json.dumps(records, **layout)) == records


@pytest.mark.parametrize("between", [",", ", ", ",\n", "\n,\n  "])
def test_an_array_of_objects_is_read_in_columns_however_it_is_set(between):
    text = f"[{between.join(map(json.dumps, RECORDS))}]"
    pieces = list(array_of(text, COLUMNS))
    assert [type(piece) for piece in pieces] == [Columns, list]  # the last one is read by itself, to its very end
    assert pieces[0].table.column("caption").to_pylist() == [record["caption"] for record in RECORDS[:-1]]
    assert records_of(text) == RECORDS


def test_what_waits_stays_short_though_no_two_records_are_set_apart_alike(monkeypatch):
    """Else each of the few records that are had at once would cost the reading of another piece."""
    monkeypatch.setattr(json_arrays, "CHUNK_CHARACTERS", 200)
    waiting, read_on = [], json_arrays._Array.more

    def more(array):
        read_on(array)
        waiting.append(len(array.text))

    monkeypatch.setattr(json_arrays._Array, "more", more)
    text = "".join(f"{' ' * (number % 90)},\n{json.dumps(record)}" for number, record in enumerate(RECORDS))
    assert records_of(f"[{text.lstrip(' ,')}]") == RECORDS
    assert max(waiting) <= 3 * 200


SPELLED = ("\t", "\\\\", '\\\\\\"', '\\"', "\\ud800", "\\/", "\\x", "\\")


@pytest.mark.parametrize(
    "odd",
    [
        '{"url": "a", "z": [{"c": 1}, {"c": 2}]}',
        '{"url": "a", "url": "b"}',
        '{"url": "a}, {b"}',
        '{"url": 3, "caption": null}',
        '{"url": "a", "caption": "b", "width": "3"}',
        *(f'{{"url": "{text}", "caption": "b"}}' for text in SPELLED),
        '{"url": "\\ud800"}',
        '{"url": "a", "width": 2.5}',
        '{"url": "a", "z": -Inf}',
        '{"url": "a", "z": NaN}',
        '{"url": "a", "z": Infinity, "caption": "Info Infinity"}',
        '{"url": "a", "z": %s}' % ("9" * 5_000),
        '{"url": "a", "z": %s}' % ("[" * 3_000 + "]" * 3_000),
    ],
)
def test_what_columns_cannot_hold_is_read_as_it_was(odd):
    good = list(map(json.dumps, RECORDS[:3]))
    check_odd(f"[{', '.join([good[0], odd, odd, *good[1:]])}]", odd)
    check_odd(f"[{odd}, {odd}, {odd}]", odd)


def check_odd(text, odd):
    found = records_of(text)
    try:
        assert str(found[1]) == str(json.loads(odd))
    except (ValueError, RecursionError):
        assert isinstance(found[1], Malformed)
    assert found[3:] == RECORDS[1:3][: len(found) - 3]


def test_a_record_without_a_comma_behind_it_is_one_drop_and_the_next_is_read():
    first, *others = map(json.dumps, RECORDS)
    found = records_of(f"[{first}, {first}\n{', '.join(others)}]")
    assert found[:1] + found[2:] == RECORDS
    assert isinstance(found[1], Malformed) and "is followed by '{', not by a comma" in found[1].detail


NO_QUOTE = '"url": "a", "caption": "b'
MISTAKES = (
    '"url": "a", "caption": oops',
    '"url": "a", "caption": "b\tc"',
    '"url": "a", "caption": "\\x"',
    '"url": "a" "caption": "b"',
    '"url": "a", "width": %s' % ("9" * 5_000),
    '"url": "a", "tags": [{"b": oops}, {"b": 1}, {"b": 2}]',
    '"url": "a", "caption": "6" nails, {big}"',
    '"url": "a", "caption": "6\\" nails""',
    NO_QUOTE,
    '"url": "C:\\", "caption": "b"',
    '"url": "a", "more": {"b": 1',
    '"url": "a", "tags": ["b"',
    '"url": "a", "tags": "b"]',
    '"url": "a"}',
)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("between", [", ", ",", "\n,\n"])
def test_a_broken_record_of_an_array_is_one_drop_and_the_others_are_read(monkeypatch, mistake, between):
    """Wherever it stands, and wherever the pieces end; the drop says where the record begins, and what is wrong."""
    good = [json.dumps(record) for record in RECORDS[:4]]
    for place in range(4 if mistake == NO_QUOTE else 5):  # at the end the text would just stop within that quote
        text = f"[{between.join([*good[:place], f'{{{mistake}}}', *good[place:]])}]"
        for size in (7, 60, 10_000):
            monkeypatch.setattr(json_arrays, "CHUNK_CHARACTERS", size)
            found = records_of(text)
            assert found[:place] + found[place + 1 :] == RECORDS[:4]
            begin = text.index(f"{{{mistake}}}")
            assert found[place].detail.startswith(f"record {place}, at byte {begin}, ")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_list_with_a_broken_record_that_is_cut_is_refused_with_its_byte(mistake):
    good = json.dumps(RECORDS[0])
    whole = f"[{good}, {{{mistake}}}, {good}, {good}]"
    for size in range(len(whole) - 2 * len(good) - 3, len(whole)):
        with pytest.raises(ConfigError, match=f"ends at byte {size}"):
            records_of(whole[:size])


def test_what_orjson_refuses_is_read_all_the_same():
    text = '[{"a": 1}, {"a": NaN}, {"b": "\\ud800"}, {"c": 2}, {"c": 3}]'
    assert str(records_of(text)) == str(json.loads(text))


@FUZZ
@given(
    records=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    cut=st.integers(0, 200),
    other=st.sampled_from([b"", b"}", b"]", b",", b'"', b"{", b"\\", b"\xff", b"\x00", b" ", b"1", b"[[["]),
    size=st.integers(1, 60),
)
def test_any_array_is_read_as_python_reads_it_or_has_a_broken_record_or_is_refused(
    monkeypatch, records, indent, cut, other, size
):
    monkeypatch.setattr(json_arrays, "CHUNK_CHARACTERS", size)
    data = written(records, indent)
    data = data[:cut] + other + data[cut:]
    expected = wanted(data)
    try:
        found = records_of(data)
    except (ConfigError, UnicodeDecodeError):
        assert expected is None
        return
    if expected is None:
        assert any(isinstance(record, Malformed) for record in found)
    else:
        assert str(found) == str(expected)
