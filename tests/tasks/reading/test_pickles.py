"""Pickles of plain values are read, of both Pythons; whatever would do more is refused before it does it."""

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from tasks.reading.pickles import read_plain_pickle
from tinygptv_core.plain import ConfigError

REFS = [{"ref_id": 0, "box": (1.5, 2), "split": "train", "sentences": [{"raw": "the caf\u00e9"}], "none": None}]
PLAIN = [{"ref_id": 0, "box": [1.5, 2], "split": "train", "sentences": [{"raw": "the caf\u00e9"}], "none": None}]
# As Python 2 wrote it, protocol 0: a list of one dict, its text a byte string.
FROM_PYTHON_2 = b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'ann_id'\np4\nI7\nsS'big'\np5\nL8L\nsa."


def written(folder: Path, data: bytes) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(tmp_path: Path, protocol: int):
    assert read_plain_pickle(written(tmp_path, pickle.dumps(REFS, protocol=protocol))) == PLAIN


def test_what_python_2_wrote_is_read(tmp_path: Path):
    assert read_plain_pickle(written(tmp_path, FROM_PYTHON_2)) == [{"split": "train", "ann_id": 7, "big": 8}]


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path, protocol: int):
    mark = tmp_path / "mark"
    path = written(tmp_path, pickle.dumps([*REFS, Hostile(mark)], protocol=protocol))
    with pytest.raises(ConfigError, match="is refused: it is a pickle that has the instruction"):
        read_plain_pickle(path)
    assert not mark.exists()


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth > 1 else []


def shared(depth: int) -> list[Any]:
    """Ten lists that each hold the one below it ten times: ten lists in the file, 10**10 in the value."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value] * 10
    return value


def looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (pickle.dumps(nested(17)), "is nested more than 16 deep"),
        (pickle.dumps(looped()), "is nested more than 16 deep"),
        (pickle.dumps(shared(10)), "means far more than it holds"),
        (b"\x80\x02})" + b"2\x86" * 60 + b"Ns.", "names a value by a list"),
        (b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.", "names a value by a list"),
        (b"\x80\x02}(}N\x64.", "names a value by a list or an object"),
        (pickle.dumps(1 << 64), "has a whole number of 65 bits"),
        (b"\x80\x02\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b".", "has a whole number of"),
        (b"\x80\x02}Na.", "adds to what is no list"),
        (b"\x80\x02]NNs.", "names values of what is no object"),
        (b"\x80\x02}(Nu.", "is no whole pickle"),
        (b"\x80\x02N\x86.", "is no whole pickle"),
        (pickle.dumps({1, 2}), "has the instruction"),
        (b"Ppersistent\n.", "has the instruction PERSID"),
        (pickle.dumps(REFS)[:-9], "is no whole pickle"),
        (b'[{"ref_id": 0}]', "is no whole pickle"),
        (b"", "is no whole pickle"),
        (b"\x80\x02(.", "is no whole pickle"),
        (b"a.", "is no whole pickle"),
    ],
)
def test_what_no_publisher_would_write_is_refused(tmp_path: Path, data: bytes, error: str):
    with pytest.raises(ConfigError, match=error):
        read_plain_pickle(written(tmp_path, data))


def test_a_place_for_later_use_takes_no_memory_for_those_below_it(tmp_path: Path):
    assert read_plain_pickle(written(tmp_path, b"\x80\x02]r" + struct.pack("<I", 1 << 31) + b".")) == []


def test_every_instruction_for_plain_values_is_done_as_python_does_it(tmp_path: Path):
    """A mark that is taken back, a group that is, a value that is doubled, lists and objects made at once."""
    data = b"\x80\x04((0(NN1]\x94N0(S'a'\nI01\nda(K\x072lah\x00\x89\x88t."
    wanted = [[{"a": True}, [7, 7]], [{"a": True}, [7, 7]], False, True]
    assert read_plain_pickle(written(tmp_path, data)) == list(pickle.loads(data)) == wanted


def test_sixteen_lists_within_each_other_are_plain(tmp_path: Path):
    assert read_plain_pickle(written(tmp_path, pickle.dumps(nested(16)))) == nested(16)
