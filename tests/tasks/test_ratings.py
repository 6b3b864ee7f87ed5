"""Scores by functions of a user's file."""

import pyarrow.parquet as pq
import pytest

from tasks.ratings import RATINGS_FILE, Rating, rate_pictures
from tasks.tars import Sharing
from tests.tasks.shards import ALONE, encoded, picture, step_folders, write_shards
from tinygptv_core.plain import ConfigError
from tinygptv_core.settings import Scorer

SCORERS = """
seen = []

def number_said(pictures, texts):
    seen.append(len(texts))
    assert all(isinstance(data, bytes) and data[:2] == bytes([0xFF, 0xD8]) for data in pictures)
    return [float(text.split()[-1]) + len(seen) / 10 for text in texts]

def too_few(pictures, texts):
    return [0.5]

def not_a_number(pictures, texts):
    return [float("nan")] * len(texts)

def texts(pictures, texts):
    return texts

def nothing(pictures, texts):
    return None

def some(pictures, texts):
    return [0.5] * (len(texts) - 1) + [None]

def broken(pictures, texts):
    return 1 / 0

def one_text(pictures, texts):
    return "12"

def leaves(pictures, texts):
    raise SystemExit(3)
"""


def rated(folder, name, pictures=None, sharing=ALONE):
    folder.mkdir(exist_ok=True)
    file = folder / "my_scorers.py"
    file.write_text(SCORERS)
    pictures = pictures or [encoded(picture(i)) for i in range(3)]
    shards = write_shards(folder / "shards", pictures, per_tar=3, captions=True)
    place = step_folders(folder / "site")
    rate_pictures(Rating(file=file, name=name, batch=2), shards, {}, place, sharing)
    return pq.read_table(place.out / RATINGS_FILE).to_pydict()


def test_pictures_are_given_in_batches_and_text_and_what_is_no_picture_have_no_score(tmp_path):
    pictures = [encoded(picture(i)) for i in range(7)]
    pictures[1], pictures[4] = None, None
    table = rated(tmp_path, "number_said", pictures)
    assert table["key"] == [f"{number:09d}" for number in range(7)]
    # The first tar gives one batch of 2; the second gives one of 2, and the third of 1.
    assert table["score"] == [0.1, None, 2.1, 3.2, None, 5.2, 6.3]
    told = (tmp_path / "site" / "notes" / "scores.txt").read_text()
    assert told == "number_said: least 0.1, median 3.2, most 6.3, of 5\n"


def test_processes_give_the_same_scores_as_one(tmp_path):
    """Each process counts its own batches, so it is one that scores all of a tar: the whole numbers are the same."""
    pictures = [encoded(picture(i)) for i in range(6)]
    alone = rated(tmp_path / "1", "number_said", pictures)
    shared = rated(tmp_path / "2", "number_said", pictures, Sharing(processes=2, least_bytes=0, ray=None))
    assert [int(score) for score in alone["score"]] == [int(score) for score in shared["score"]] == list(range(6))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too_few", "given the 2 samples 000000000 to 000000001, returned 1 scores; it must return one for each"),
        ("not_a_number", "returned nan for 000000000; a score must be a finite number"),
        ("texts", r"returned 'caption 0' for 000000000; a score must be a finite number \(.*my_scorers.py, line 15\)"),
        ("nothing", r"returned None; it must return a number for each \(.*my_scorers.py, line 18\)"),
        ("some", r"returned None for 000000001; a score must be a finite number \(.*my_scorers.py, line 21\)"),
        ("broken", r"failed: ZeroDivisionError: division by zero \(.*my_scorers.py, line 25\)"),
        ("one_text", r"returned '12'; it must return a number for each \(.*my_scorers.py, line 27\)"),
        ("leaves", r"failed: SystemExit: 3 \(.*my_scorers.py, line 31\)"),
        ("number_sad", "there is no function number_sad. Did you mean number_said?"),
    ],
)
def test_a_scorer_that_fails_stops_the_step_and_says_how(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        rated(tmp_path, name)


def test_a_file_that_cannot_be_run_is_refused(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("import nothing_of_that_name")
    with pytest.raises(ConfigError, match="bad.py cannot be run: ModuleNotFoundError: No module named 'nothing_of_"):
        rate_pictures(Rating(file=file, name="f", batch=1), tmp_path, {}, step_folders(tmp_path / "s"), ALONE)
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.exit('usage: script.py FILE')")
    with pytest.raises(ConfigError, match="script.py cannot be run: SystemExit: usage: script.py FILE"):
        rate_pictures(Rating(file=script, name="f", batch=1), tmp_path, {}, step_folders(tmp_path / "u"), ALONE)
    with pytest.raises(ConfigError, match="there is no Python file .*none.py"):
        rate_pictures(
            Rating(file=tmp_path / "none.py", name="f", batch=1), tmp_path, {}, step_folders(tmp_path / "t"), ALONE
        )


def test_a_scorer_without_bounds_or_with_no_name_is_refused():
    with pytest.raises(ConfigError, match="neither at_least nor at_most of f is set"):
        Scorer(file="f.py", name="f")
    with pytest.raises(ConfigError, match="it must be that of a function in f.py"):
        Scorer(file="f.py", name="f.py:f", at_least=0.5)
