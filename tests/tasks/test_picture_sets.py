"""A user's downloads become shards: found below one folder, checked, kept once, and every row accounted for."""

import io
import json
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_recipes import coco_vqa, refcoco, unnatural_instruction
from data_recipes.parts.pictures import COCO_TRAIN2014, OCR_VQA
from tasks.filter import filter_rows
from tasks.filtering.removals import NO_REMOVALS
from tasks.hashes import hash_of, hash_pictures
from tasks.picture_sets import PICTURES_FILE, gather, picture_files, write_pictures
from tasks.rows import rows
from tasks.screen import Against, screen
from tasks.sources import brought_file, brought_pictures, warn_of_size
from tasks.tables import LEDGER_FILE, LedgerRow, PictureRow, TableRow, TableWriter, read_counts, read_table
from tests.tasks.shards import ALONE, encoded
from tests.tasks.shards import picture as photograph
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import INSTRUCTION
from tinygptv_core.recipe import Download, Recipe, Turn
from tinygptv_core.run import DataFolders
from tinygptv_core.shards import ShardSet


def picture(colour: str, form: str = "JPEG", side: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, 10), colour).save(file, form)
    return file.getvalue()


def coco(number: int) -> str:
    return f"COCO_train2014_{number:012}.jpg"


FILES = {
    coco(1): picture("red"),
    coco(2): picture("blue", "GIF"),  # some of COCO's and OCR-VQA's .jpg are none
    coco(3): picture("green")[:-40],
    coco(4): b"<html>moved</html>",
    coco(5): picture("white", side=7_000),
}


def progress(done: int, total: int, text: str) -> None:
    pass


def step_folders(folder: Path) -> Any:
    for name in ("out", "scratch", "notes"):
        (folder / name).mkdir(parents=True)
    return SimpleNamespace(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes")


def unpacked(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "readme.txt").write_text("no picture")
    return folder


def packed(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in reversed(FILES.items()):
            archive.writestr(f"train2014/{name}", data)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    place = step_folders(tmp_path / "set")
    write_pictures(COCO_TRAIN2014, unpacked(tmp_path / "coco" / "train2014"), place, progress)
    return place.out


def test_a_set_says_what_became_of_every_file(pictures: Path):
    found = {row.name: row for row in read_table(pictures / PICTURES_FILE, PictureRow)}
    assert {name: row.fate for name, row in found.items()} == {
        coco(1): "ok",
        coco(2): "ok",
        coco(3): "truncated",
        coco(4): "undecodable",
        coco(5): "ok",
    }
    assert read_counts(pictures) == {"rows": 5, "kept": 3, "dropped": {"truncated": 1, "undecodable": 1}}
    one = found[coco(2)]
    assert (one.width, one.height, one.tar) == (20, 10, 0) and one.offset and one.size
    tar = (pictures / "00000.tar").read_bytes()
    assert tar[one.offset : one.offset + one.size] == FILES[coco(2)]


def test_a_folder_and_its_archive_give_the_same_bytes(pictures: Path, tmp_path: Path):
    place = step_folders(tmp_path / "other")
    write_pictures(COCO_TRAIN2014, packed(tmp_path / "train2014.zip"), place, progress)
    assert digest_of(members_of(place.out)) == digest_of(members_of(pictures))


def test_a_set_without_pictures_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no picture for coco_train2014"):
        write_pictures(COCO_TRAIN2014, tmp_path / "empty", step_folders(tmp_path / "set"), progress)


def test_a_picture_that_may_not_be_read_is_counted_and_the_set_another_once_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, stamps = unpacked(tmp_path / "coco" / "train2014"), tmp_path / "stamps"
    whole = brought_pictures(tmp_path, COCO_TRAIN2014, stamps)
    (folder / coco(1)).chmod(0)
    may_read = os.access  # root may read everything, so the file's own mode is asked
    monkeypatch.setattr(os, "access", lambda path, mode: may_read(path, mode) and bool(os.stat(path).st_mode & 0o444))
    without = brought_pictures(tmp_path, COCO_TRAIN2014, stamps)
    assert without.digest != whole.digest
    place = step_folders(tmp_path / "set")
    write_pictures(COCO_TRAIN2014, folder, place, progress)
    assert read_counts(place.out)["dropped"] == {"not_readable": 1, "truncated": 1, "undecodable": 1}
    found = prepared(
        coco_vqa.RECIPE, "coco_vqa", [question(1), question(2)], {"coco_train2014": place.out}, tmp_path / "vqa"
    )
    assert [found[place].picture for place in range(len(found))] == [FILES[coco(2)]]
    assert read_counts(tmp_path / "vqa" / "fetch" / "out")["dropped"] == {"not_readable": 1}
    (folder / coco(1)).chmod(0o644)
    assert brought_pictures(tmp_path, COCO_TRAIN2014, stamps).digest == whole.digest


def prepared(recipe: Recipe, name: str, records: list[Any], sets: dict[str, Path], folder: Path) -> ShardSet:
    """The data set through all its steps."""
    folder.mkdir(parents=True)
    (folder / "records.json").write_text(json.dumps(records))
    places = [step_folders(folder / step) for step in ("rows", "filter", "fetch", "screen")]
    rows(recipe, name, folder / "records.json", places[0])
    filter_rows(INSTRUCTION.filter, recipe, places[0].out, places[1], NO_REMOVALS)
    gather(INSTRUCTION.fetch, places[1].out, sets, places[2], progress)
    screen(INSTRUCTION.screen, places[2].out, Against(), places[3], ALONE)
    return ShardSet(DataFolders(shards=places[2].out, index=places[3].out, pictures=sets))


def question(number: int) -> dict[str, Any]:
    return {"image": f"train2014/{coco(number)}", "question": f"Which {number}?", "answer": ["red", "Red", "blue"]}


def test_rows_find_their_pictures_and_those_without_are_counted(pictures: Path, tmp_path: Path):
    records = [question(number) for number in (1, 2, 3, 4, 6, 1)]
    found = prepared(coco_vqa.RECIPE, "coco_vqa", records, {"coco_train2014": pictures}, tmp_path / "vqa")
    assert [found[place].picture for place in range(len(found))] == [FILES[coco(n)] for n in (1, 2, 1)]
    assert [found[place].key for place in range(3)] == ["000000000", "000000001", "000000005"]
    assert found[0].turns == (Turn("user", "which 1?"), Turn("assistant", "red", ("red", "blue")))
    counts = read_counts(tmp_path / "vqa" / "fetch" / "out")
    assert counts == {"rows": 6, "kept": 3, "dropped": {"missing": 1, "truncated": 1, "undecodable": 1}}
    ledger = {row.key: row for row in read_table(tmp_path / "vqa" / "fetch" / "out" / LEDGER_FILE, LedgerRow)}
    assert ledger["000000004"].detail == f"there is no {coco(6)} in coco_train2014"
    assert (ledger["000000000"].width, ledger["000000000"].height) == (20, 10)


def test_where_all_are_missing_one_that_is_there_shows_a_folder_too_deep(tmp_path: Path):
    unpacked(tmp_path / "coco" / "train2014" / "train2014")
    place = step_folders(tmp_path / "set")
    write_pictures(COCO_TRAIN2014, tmp_path / "coco" / "train2014", place, progress)
    told = f"missing 1. The first: there is no {coco(1)} in coco_train2014, where one is called train2014/{coco(1)}"
    with pytest.raises(ConfigError, match=told):
        prepared(coco_vqa.RECIPE, "coco_vqa", [question(1)], {"coco_train2014": place.out}, tmp_path / "vqa")


def test_a_jpeg_that_a_browser_saved_is_a_picture_of_a_set(tmp_path: Path):
    folder = unpacked(tmp_path / "coco" / "train2014")
    for name in ("6.jfif", "7.jpe", "8.JFIF"):
        (folder / name).write_bytes(picture("red"))
    assert {"6.jfif", "7.jpe", "8.JFIF"} < {path.name for path in picture_files(folder)}


def test_what_a_folder_was_may_be_forgotten(tmp_path: Path):
    unpacked(tmp_path / "coco" / "train2014")
    stamps = tmp_path / "store" / "stamps"
    stamps.parent.mkdir()
    found = brought_pictures(tmp_path, COCO_TRAIN2014, stamps)
    for damaged in ("", '{"a', "[]"):
        (stamps / "folders.json").write_text(damaged)
        assert brought_pictures(tmp_path, COCO_TRAIN2014, stamps) == found


def test_no_picture_is_in_the_shards_of_a_data_set(pictures: Path, tmp_path: Path):
    prepared(coco_vqa.RECIPE, "coco_vqa", [question(1)] * 50, {"coco_train2014": pictures}, tmp_path / "vqa")
    tar = (tmp_path / "vqa" / "fetch" / "out" / "00000.tar").read_bytes()
    assert FILES[coco(1)] not in tar and tar.count(b".json") == 50


def test_a_screen_of_sizes_sees_the_pictures_of_a_set(pictures: Path, tmp_path: Path):
    """7,000 x 10 is 700 to 1; 20 x 10 is 2 to 1."""
    prepared(coco_vqa.RECIPE, "coco_vqa", [question(1), question(5)], {"coco_train2014": pictures}, tmp_path / "vqa")
    place = step_folders(tmp_path / "narrow")
    narrow = type(INSTRUCTION.screen)(min_side=1, max_aspect=3.0, unique_bytes=False)
    screen(narrow, tmp_path / "vqa" / "fetch" / "out", Against(), place, ALONE)
    assert read_counts(place.out) == {"rows": 2, "kept": 1, "dropped": {"too_elongated": 1}}


def test_the_pictures_of_a_set_are_hashed_where_they_lie(tmp_path: Path):
    """Five questions in three tars about two photographs, and one without a picture."""
    folder, place = tmp_path / "photographs", step_folders(tmp_path / "set")
    folder.mkdir()
    for number in (1, 2):
        (folder / coco(number)).write_bytes(encoded(photograph(number)))
    write_pictures(COCO_TRAIN2014, folder, place, progress)
    sets, shards = {"coco_train2014": place.out}, step_folders(tmp_path / "fetch")
    table = tmp_path / "table"
    table.mkdir()
    with TableWriter(table / "rows.parquet", TableRow) as writer:
        for number, about in enumerate([2, 9, 1, None, 2, 1]):
            file = None if about is None else coco(about)
            writer.write(TableRow(key=f"{number:09d}", url=None, file=file, turns="[]", split=None, group=None))
    gather(replace(INSTRUCTION.fetch, samples_per_shard=2), table, sets, shards, progress)
    hashed = step_folders(tmp_path / "hash")
    hash_pictures(shards.out, sets, bordered=False, folders=hashed, sharing=ALONE)
    first, second = (hash_of(encoded(photograph(number)), None) for number in (1, 2))
    found = pq.read_table(hashed.out / "hashes.parquet").to_pydict()
    assert dict(zip(found["key"], found["hash"], strict=True)) == {
        "000000000": second,
        "000000002": first,
        "000000003": None,
        "000000004": second,
        "000000005": first,
    }
    index = step_folders(tmp_path / "screen")
    rules = replace(INSTRUCTION.screen, near_duplicate_bits=0)
    screen(rules, shards.out, Against(hashes=hashed.out), index, ALONE)
    kept = ShardSet(DataFolders(shards=shards.out, index=index.out, pictures=sets))
    assert [(kept[i].key, kept[i].picture is not None) for i in range(len(kept))] == [
        ("000000000", True),
        ("000000002", True),
        ("000000003", False),
    ]


def test_of_two_sets_the_first_that_has_a_picture_gives_it(pictures: Path, tmp_path: Path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / coco(1)).write_bytes(picture("black"))
    (other / coco(9)).write_bytes(picture("pink"))
    place = step_folders(tmp_path / "second")
    write_pictures(OCR_VQA, other, place, progress)
    sets = {"coco_train2014": pictures, "ocr_vqa_images": place.out}
    found = prepared(coco_vqa.RECIPE, "coco_vqa", [question(1), question(9)], sets, tmp_path / "vqa")
    assert [found[0].picture, found[1].picture] == [FILES[coco(1)], picture("pink")]


def test_text_alone_needs_no_set(tmp_path: Path):
    records = [{"instances": [{"instruction_with_input": "Add", "constraints": None, "output": "3"}]}]
    found = prepared(unnatural_instruction.RECIPE, "unnatural_instruction", records, {}, tmp_path / "text")
    assert (found[0].picture, found[0].turns) == (None, (Turn("user", "add"), Turn("assistant", "3")))


def test_a_set_that_is_not_given_is_named(pictures: Path, tmp_path: Path):
    prepared(coco_vqa.RECIPE, "coco_vqa", [question(1)], {"coco_train2014": pictures}, tmp_path / "vqa")
    folders = DataFolders(shards=tmp_path / "vqa" / "fetch" / "out", index=tmp_path / "vqa" / "screen" / "out")
    with pytest.raises(ConfigError, match="the picture set coco_train2014, whose folder is not given"):
        ShardSet(folders)
    (folders.index / "pictures.json").unlink()
    with pytest.raises(ConfigError, match=r"pictures\.json is missing; an index has it"):
        ShardSet(replace(folders, pictures={"coco_train2014": pictures}))


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_name_that_is_no_utf8_is_left_out_and_counted(tmp_path: Path, form: str):
    source, place = tmp_path / "train2014", step_folders(tmp_path / "set")
    source.mkdir()
    for name in (b"caf\xe9.jpg", "caf\u00e9.jpg".encode()):
        (source / os.fsdecode(name)).write_bytes(FILES[coco(1)])
    if form == "tar":
        with tarfile.open(tmp_path / "train2014.tar", "w") as archive:
            archive.add(source, "train2014")
        source = tmp_path / "train2014.tar"
    write_pictures(COCO_TRAIN2014, source, place, progress)
    rows = read_table(place.out / PICTURES_FILE, PictureRow)
    assert {row.name: row.fate for row in rows} == {"caf\\xe9.jpg": "name_not_utf8", "caf\u00e9.jpg": "ok"}
    assert read_counts(place.out)["dropped"] == {"name_not_utf8": 1}


def test_links_to_folders_are_followed_and_none_for_ever(tmp_path: Path):
    """`a` leads to `b`, which leads back, and to itself; what lies there is there under each of its paths once."""
    for name in ("set/z.jpg", "a/one.jpg", "b/two.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILES[coco(1)])
    for link, target in {
        "set/a": "a",
        "a/b": "b",
        "b/a": "a",
        "b/itself": "b",
        "set/all": "set",
        "set/no": "no",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    found = [path.relative_to(tmp_path / "set").as_posix() for path in picture_files(tmp_path / "set")]
    assert found == ["a/b/two.jpg", "a/one.jpg", "z.jpg"]


# What a user brings


def test_a_folder_with_a_name_that_is_no_utf8_has_a_digest(tmp_path: Path):
    (unpacked(tmp_path / "coco" / "train2014") / os.fsdecode(b"caf\xe9.jpg")).write_bytes(FILES[coco(1)])
    with_it = brought_pictures(tmp_path, COCO_TRAIN2014, tmp_path / "stamps").digest
    (tmp_path / "coco" / "train2014" / os.fsdecode(b"caf\xe9.jpg")).unlink()
    assert brought_pictures(tmp_path, COCO_TRAIN2014, tmp_path / "stamps").digest != with_it


def test_the_place_of_a_set_bears_on_nothing_and_its_content_does(tmp_path: Path):
    (tmp_path / "stamps").mkdir()
    stamps = tmp_path / "stamps"
    unpacked(tmp_path / "a" / "coco" / "train2014")
    unpacked(tmp_path / "b" / "coco" / "train2014")
    one = brought_pictures(tmp_path / "a", COCO_TRAIN2014, stamps)
    other = brought_pictures(tmp_path / "b", COCO_TRAIN2014, stamps)
    assert one.digest == other.digest and one.path != other.path
    changed = tmp_path / "b" / "coco" / "train2014" / coco(1)
    changed.write_bytes(FILES[coco(1)][:-3] + b"abc")
    assert brought_pictures(tmp_path / "b", COCO_TRAIN2014, stamps).digest != one.digest


def test_a_folder_that_nobody_touched_is_not_read_again(tmp_path: Path):
    """A byte that changes while size and time stay is not seen, since nothing is read; with the time it is."""
    (tmp_path / "stamps").mkdir()
    one = unpacked(tmp_path / "coco" / "train2014") / coco(1)
    first, before = brought_pictures(tmp_path, COCO_TRAIN2014, tmp_path / "stamps"), one.stat()
    one.write_bytes(FILES[coco(1)][:-3] + b"abc")
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert brought_pictures(tmp_path, COCO_TRAIN2014, tmp_path / "stamps").digest == first.digest
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert brought_pictures(tmp_path, COCO_TRAIN2014, tmp_path / "stamps").digest != first.digest


def test_an_archive_may_stay_packed(tmp_path: Path):
    (tmp_path / "coco").mkdir()
    packed(tmp_path / "coco" / "train2014.zip")
    assert brought_pictures(tmp_path, COCO_TRAIN2014, tmp_path / "s").path == tmp_path / "coco" / "train2014.zip"


def test_a_missing_set_says_what_to_get_from_where_and_what_it_weighs(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        brought_pictures(tmp_path, COCO_TRAIN2014, tmp_path / "s")
    assert str(error.value) == (
        f"there is neither {tmp_path}/coco/train2014/ nor {tmp_path}/coco/train2014.zip: the archive may stay packed.\n"
        "  to get it (about 13.5 GB)  http://images.cocodataset.org/zips/train2014.zip\n"
        "  put it at  coco/train2014.zip, below the folder of --data"
    )


def test_without_a_folder_the_option_is_named():
    with pytest.raises(ConfigError, match=r"there is no refcoco/refs\(unc\).p") as error:
        brought_file(None, refcoco.RECIPE.files[0], Path("none"))
    assert str(error.value).endswith("name that folder with --data DIR, or set TINYGPTV_DATA")


def test_a_file_is_checked_where_its_sha256_is_known(tmp_path: Path):
    (tmp_path / "a.json").write_text("[]")
    empty_list = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    file = Download(path="a.json", url="https://a.example/a.json", direct=True, sha256=empty_list)
    assert brought_file(tmp_path, file, tmp_path / "s").digest == empty_list
    (tmp_path / "a.json").write_text("[1]")
    os.utime(tmp_path / "a.json", ns=(1, 1))
    with pytest.raises(ConfigError, match=f"is not the file that was published.*not {empty_list}"):
        brought_file(tmp_path, file, tmp_path / "s")


@pytest.mark.parametrize(("size", "told"), [(1_299_000, 1), (1_301_000, 0), (2_699_000, 0), (2_701_000, 1)])
def test_a_file_of_another_size_than_was_published_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, told: int
):
    """About 2 MB: a tenth of it more or less, and half a megabyte for the rounding."""
    (tmp_path / "a.zip").write_bytes(bytes(size))
    warn_of_size(Download(path="a.zip", url="https://a.example/a.zip", direct=True, megabytes=2), tmp_path / "a.zip")
    said = f"{tmp_path}/a.zip has {size} bytes, where about 2 MB are expected; is it whole?"
    assert caplog.messages == [said] * told


@pytest.mark.parametrize(("expected", "told"), [(None, 0), (5, 0), (6, 1), (4, 1)])
def test_a_set_of_far_more_or_fewer_pictures_than_expected_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expected: int | None, told: int
):
    source = unpacked(tmp_path / "coco")
    write_pictures(replace(COCO_TRAIN2014, pictures=expected), source, step_folders(tmp_path / "set"), progress)
    said = f"coco_train2014: 5 pictures, where about {expected} are expected; is {source} whole?"
    assert caplog.messages == [said] * told
