"""Which samples stay, on shards written here by hand."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from tasks import ratings
from tasks.fetch import ShardWriter
from tasks.fetching.outcomes import Outcome
from tasks.fetching.serve import serving
from tasks.hashes import hash_pictures
from tasks.screen import Against, EvaluationPictures, Screened, screen
from tasks.tables import Drop, TableRow, read_counts, read_table
from tasks.tars import Sharing
from tests.tasks.shards import ALONE, encoded, picture, step_folders, write_shards
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import DataFolders
from tinygptv_core.settings import Scorer, Screen
from tinygptv_core.shards import ShardSet

RULES = Screen(min_side=32, max_aspect=3.0, unique_bytes=True)
NOTHING = Against()


def png():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def shards_of(folder, samples):
    """Shards of two samples each; a sample is its SHA-256, width and height, and its bytes."""
    folder.mkdir()
    with ShardWriter(folder, 2) as writer:
        for number, (sha256, width, height, data) in enumerate(samples):
            row = TableRow(key=f"{number:09d}", url=None, file=None, turns="[]", split=None, group=None)
            outcome = Outcome(fate="ok", detail="", sha256=sha256, width=width, height=height)
            writer.write(row, outcome, ("png", data) if data else None)
    return folder


def reasons(folder):
    return [(int(row.key), row.reason) for row in read_table(folder / "dropped.parquet", Drop)]


SAMPLES = [
    ("a", 32, 96, png()),  # the smallest side and the longest shape that stay
    ("b", 31, 90, png()),
    ("c", 97, 32, png()),
    ("a", 40, 40, png()),
    ("d", 31, 40, png()),  # too small, so it is not what the next one repeats
    ("d", 40, 40, png()),
    ("e", 40, 40, b"no picture"),
    (None, None, None, None),
    (None, None, None, None),
]


def test_each_rule_drops_its_sample_and_text_is_never_dropped(tmp_path):
    place = step_folders(tmp_path)
    screen(RULES, shards_of(tmp_path / "shards", SAMPLES), NOTHING, place, ALONE)
    assert reasons(place.out) == [
        (1, "too_small"),
        (2, "too_elongated"),
        (3, "duplicate"),
        (4, "too_small"),
        (6, "undecodable"),
    ]
    assert read_counts(place.out)["kept"] == 4
    index = np.load(place.out / "samples.npy")
    assert index["row"].tolist() == [0, 5, 7, 8]
    assert index["shard"].tolist() == [0, 2, 3, 4]
    assert index["image_bytes"].tolist() == [len(png()), len(png()), 0, 0]
    assert index["image"].tolist()[2:] == [0, 0]
    names = json.loads((place.out / "shards.json").read_text())
    for sample, key in zip(index, ("000000000", "000000005", "000000007", "000000008"), strict=True):
        data = (tmp_path / "shards" / names[sample["shard"]]).read_bytes()
        assert json.loads(data[sample["text"] :][: sample["text_bytes"]])["key"] == key


def test_pictures_may_repeat_where_the_settings_let_them(tmp_path):
    place = step_folders(tmp_path)
    screen(replace(RULES, unique_bytes=False), shards_of(tmp_path / "shards", SAMPLES[:4]), NOTHING, place, ALONE)
    assert reasons(place.out) == [(1, "too_small"), (2, "too_elongated")]


def test_the_same_shards_give_the_same_bytes_however_many_processes_look_at_them(tmp_path):
    shards = shards_of(tmp_path / "shards", SAMPLES)
    first, second = step_folders(tmp_path / "1"), step_folders(tmp_path / "2")
    (second.out / "samples.npy").write_bytes(b"what a killed build left")
    for place, sharing in ((first, ALONE), (second, Sharing(processes=2, least_bytes=0, ray=None))):
        screen(RULES, shards, NOTHING, place, sharing)
    for path in first.out.iterdir():
        assert path.read_bytes() == (second.out / path.name).read_bytes()


def test_shards_at_an_address_that_gives_no_parts_of_files_are_told(tmp_path):
    place = step_folders(tmp_path)
    screen(RULES, shards_of(tmp_path / "shards", SAMPLES), NOTHING, place, ALONE)
    with serving(tmp_path / "shards") as address:
        found = ShardSet(DataFolders(shards=f"http://{address}", index=place.out, pictures={}))
        with pytest.raises(ValueError, match=r"00000\.tar lies where no parts of files can be had: \d+ bytes wanted"):
            found[0]


def test_a_ledger_that_is_not_the_shards_own_is_noticed(tmp_path):
    one, two = (shards_of(tmp_path / name, SAMPLES[:count]) for name, count in (("one", 2), ("two", 4)))
    (one / "ledger.parquet").write_bytes((two / "ledger.parquet").read_bytes())
    with pytest.raises(ValueError, match="shorter"):
        screen(RULES, one, NOTHING, step_folders(tmp_path / "site"), ALONE)


def test_nothing_left_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="of 1 row none is left. Why they were dropped: too_small 1"):
        screen(RULES, shards_of(tmp_path / "shards", SAMPLES[1:2]), NOTHING, step_folders(tmp_path / "site"), ALONE)


# The rules that hold pictures against others. A data set here is its pictures, all larger than 32 pixels.
NEAR = replace(RULES, near_duplicate_bits=4)
APART = replace(RULES, evaluation_bits=4)
ORIGINAL = [picture(seed) for seed in range(8)]


def copy(seed):
    return encoded(ORIGINAL[seed].resize((80, 60)), quality=60)


def brighter(seed):
    return encoded(ImageEnhance.Brightness(ORIGINAL[seed]).enhance(1.1))


def data_set(folder, pictures):
    """The shards and the hashes of a data set."""
    shards, hashed = write_shards(folder / "shards", pictures), step_folders(folder / "hash")
    hash_pictures(shards, {}, bordered=False, folders=hashed, sharing=ALONE)
    return shards, hashed.out


def screened(folder, rules, shards, against):
    """The drops of a data set, and the folder of its index. Everything is kept or dropped."""
    place = step_folders(folder / "screen")
    screen(rules, shards, against, place, ALONE)
    counts = read_counts(place.out)
    drops = reasons(place.out)
    assert counts["rows"] == counts["kept"] + len(drops) and len(np.load(place.out / "samples.npy")) == counts["kept"]
    return drops, place.out


def details(folder):
    return [row.detail for row in read_table(folder / "dropped.parquet", Drop)]


def test_of_near_duplicates_the_first_stays(tmp_path):
    pictures = [encoded(ORIGINAL[0]), encoded(ORIGINAL[1]), copy(0), None, brighter(1), copy(0), encoded(ORIGINAL[2])]
    shards, hashes = data_set(tmp_path, pictures)
    drops, index = screened(tmp_path, NEAR, shards, Against(hashes=hashes))
    assert drops == [(2, "near_duplicate"), (4, "near_duplicate"), (5, "duplicate")]
    assert [told.split(" from ")[1] for told in details(index)[:2]] == ["000000000", "000000001"]


def test_a_near_duplicate_of_one_that_goes_for_another_reason_stays(tmp_path):
    shards, hashes = data_set(tmp_path, [encoded(ORIGINAL[0].resize((40, 30))), copy(0)])
    assert screened(tmp_path, NEAR, shards, Against(hashes=hashes))[0] == [(0, "too_small")]


def test_near_duplicates_of_what_stays_of_an_earlier_data_set_go(tmp_path):
    first, first_hashes = data_set(tmp_path / "a", [encoded(ORIGINAL[0]), encoded(ORIGINAL[1].resize((40, 30)))])
    _, index = screened(tmp_path / "a", NEAR, first, Against(hashes=first_hashes))
    second, second_hashes = data_set(tmp_path / "b", [copy(1), copy(0), encoded(ORIGINAL[2]), copy(2)])
    before = {"web": Screened(hashes=first_hashes, index=index)}
    drops, index = screened(tmp_path / "b", NEAR, second, Against(hashes=second_hashes, before=before))
    assert drops == [(1, "near_duplicate"), (3, "near_duplicate")]
    assert [told.split(" from ")[1] for told in details(index)] == ["web 000000000", "000000002"]


def test_an_earlier_data_set_of_which_all_stays_is_kept_apart_too(tmp_path):
    first, first_hashes = data_set(tmp_path / "a", [encoded(ORIGINAL[0])])
    drops, index = screened(tmp_path / "a", NEAR, first, Against(hashes=first_hashes))
    second, second_hashes = data_set(tmp_path / "b", [encoded(ORIGINAL[1]), copy(0)])
    before = {"web": Screened(hashes=first_hashes, index=index)}
    assert (drops, screened(tmp_path / "b", NEAR, second, Against(hashes=second_hashes, before=before))[0]) == (
        [],
        [(1, "near_duplicate")],
    )


def test_pictures_that_an_evaluation_asks_about_are_not_trained_on(tmp_path):
    """Of the evaluation's data set only the even pictures are of the split that is asked."""
    _, asked = data_set(tmp_path / "e", [encoded(ORIGINAL[seed]) for seed in range(4)])
    shards, hashes = data_set(tmp_path, [copy(3), brighter(2), None, copy(5), encoded(ORIGINAL[0])])
    against = Against(hashes=hashes, evaluation={"vqa": EvaluationPictures(hashes=asked, splits=["asked"])})
    drops, index = screened(tmp_path, APART, shards, against)
    assert drops == [(1, "in_evaluation"), (4, "in_evaluation")]
    assert details(index)[1] == "0 of 64 bits from vqa 000000000"


def test_pictures_on_a_removal_list_go_by_their_bytes_or_by_their_look(tmp_path):
    shards, hashes = data_set(tmp_path, [encoded(ORIGINAL[0]), copy(1), encoded(ORIGINAL[1]), copy(2)])
    listed = pq.read_table(hashes / "hashes.parquet")["hash"].to_pylist()[2]
    sha256 = pq.read_table(shards / "ledger.parquet")["sha256"].to_pylist()[3]
    listed = f"{listed:016x}"
    against = Against(hashes=hashes, removed_sha256=frozenset([sha256]), removed_phash=frozenset([listed]))
    drops, index = screened(tmp_path, RULES, shards, against)
    assert drops == [(1, "removed_phash"), (2, "removed_phash"), (3, "removed_sha256")]
    assert details(index)[1:] == [
        f"0 of 64 bits from the listed {listed}",
        "a removal list names its bytes",
    ]


def test_scores_out_of_their_bounds_drop_their_sample_and_no_score_drops_none(tmp_path):
    likeness = Scorer(file="s.py", name="likeness", at_least=0.25)
    rules = replace(RULES, scorers=(likeness, Scorer(file="s.py", name="harm", at_least=-1, at_most=0.5)))
    scores = {"likeness": [0.25, 0.24, None, 0.9, 0.9], "harm": [0.5, 0.9, None, 0.51, -2.0]}
    for name, column in scores.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"score": pa.array(column, pa.float64())}), tmp_path / name / ratings.RATINGS_FILE)
    pictures = [encoded(ORIGINAL[0]), encoded(ORIGINAL[1]), None, encoded(ORIGINAL[1]), encoded(ORIGINAL[2])]
    against = Against(ratings={name: tmp_path / name for name in scores})
    drops, index = screened(tmp_path, rules, write_shards(tmp_path / "shards", pictures), against)
    assert drops == [(1, "low_likeness"), (3, "high_harm"), (4, "low_harm")]
    assert details(index) == ["0.24, at least 0.25", "0.51, at most 0.5", "-2, at least -1"]


def test_where_bounds_leave_nothing_it_is_told_how_the_scores_lie(tmp_path):
    (tmp_path / "s").mkdir()
    pq.write_table(pa.table({"score": [0.1, 0.3, None, 0.2]}), tmp_path / "s" / ratings.RATINGS_FILE)
    rules = replace(RULES, scorers=(Scorer(file="s.py", name="likeness", at_least=0.5),), min_side=999)
    shards = write_shards(tmp_path / "shards", [encoded(ORIGINAL[0])] * 4)
    said = r"none is left\. .*\. The scores of likeness: least 0.1, median 0.2, most 0.3, of 3$"
    with pytest.raises(ConfigError, match=said):
        screened(tmp_path, rules, shards, Against(ratings={"likeness": tmp_path / "s"}))


def test_a_copy_with_a_better_score_stays_though_its_bytes_came_before(tmp_path):
    (tmp_path / "s").mkdir()
    pq.write_table(pa.table({"score": [0.1, 0.9, 0.8]}), tmp_path / "s" / ratings.RATINGS_FILE)
    rules = replace(RULES, scorers=(Scorer(file="s.py", name="likeness", at_least=0.5),))
    shards = write_shards(tmp_path / "shards", [encoded(ORIGINAL[0])] * 3)
    drops, _ = screened(tmp_path, rules, shards, Against(ratings={"likeness": tmp_path / "s"}))
    assert drops == [(0, "low_likeness"), (2, "duplicate")]


@pytest.mark.parametrize("name", ["near_duplicate_bits", "evaluation_bits", "removal_bits"])
def test_more_bits_than_tell_pictures_apart_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 11; it must lie in 0..10"):
        replace(RULES, **{name: 11})
