import numpy as np
import pyarrow as pa
import pytest

from tasks.filtering import repeats
from tasks.filtering.repeats import FirstOf, Repeats


def later(texts: list[str | None], left_out: list[int], scratch) -> dict[int, str]:
    """Each row that repeats an earlier one, and the words for it; rows are handed over two at a time."""
    column = pa.array(texts, pa.string())
    rows = pa.table({"key": [f"{row:09d}" for row in range(len(texts))], "text": column})
    finder, found = Repeats("text", [column], scratch), dict[int, str]()
    for start in range(0, len(texts), 2):
        batch = rows[start : start + 2].combine_chunks().to_batches()[0]
        is_left_out = np.isin(np.arange(start, start + len(batch)), left_out)
        is_later, words = finder.later(batch, is_left_out)
        found |= {start + place: words(place) for place in np.flatnonzero(is_later).tolist()}
    return found


def test_a_row_repeats_the_first_of_its_text_that_is_not_left_out(tmp_path):
    texts = ["a", "b", "a", None, None, "b", "a", "c"]
    expected = {5: "as row 000000001", 6: "as row 000000002"}
    assert later(texts, left_out=[0], scratch=tmp_path / "hashes") == expected


@pytest.mark.parametrize("texts", [["ab", "ac", "ac"], ["ac", "ab", "ac"]], ids=["before", "between"])
def test_texts_of_one_hash_are_told_apart_by_another(texts, tmp_path, monkeypatch):
    """Hashed by the first character, all three are alike; from behind, "ab" is another."""
    monkeypatch.setattr(repeats, "hash", lambda text: ord(text[:1]), raising=False)
    found = later(texts, left_out=[], scratch=tmp_path / "hashes")
    assert found == ({} if texts[0] == "ab" else {2: "as row 000000000"})


@pytest.mark.parametrize("told_by", [hash, lambda text: 1], ids=["hash", "one for all"])
def test_of_texts_that_come_one_by_one_the_first_that_is_asked_about_holds_its_text(told_by, monkeypatch):
    monkeypatch.setattr(repeats, "hash", told_by, raising=False)
    first = FirstOf(["a", "b", "a", "c", "a"])
    asked = [("b", "1"), ("a", "2"), ("c", "3"), ("a", "4"), ("a", "2")]
    assert [first.holder(text, key) for text, key in asked] == [None, None, None, "2", None]
