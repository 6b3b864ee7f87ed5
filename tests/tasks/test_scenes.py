"""The drawn source: the same bytes again, what it holds, and its faults."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tasks.request import StepFolders
from tasks.scenes import draw
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.image import decode
from tinygptv_core.settings import Scenes

SCENES = Scenes(seed=3, pretraining_pictures=100, instruction_pictures=40, held_out_pictures=20)


def drawn(folder: Path, scenes: Scenes = SCENES) -> Path:
    folder.mkdir()
    draw(scenes, StepFolders(out=folder, scratch=folder, notes=folder))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return drawn(tmp_path_factory.mktemp("scenes") / "source")


def records(source: Path, name: str) -> list[dict]:
    return json.loads((source / name).read_text())


def test_the_same_request_draws_the_same_bytes_and_another_seed_others(source, tmp_path):
    again = drawn(tmp_path / "again")
    other = drawn(tmp_path / "other", Scenes(**{**vars(SCENES), "seed": 4}))
    assert digest_of(members_of(again)) == digest_of(members_of(source)) != digest_of(members_of(other))


def test_a_fifth_of_the_pre_training_pictures_is_on_the_smaller_list(source):
    assert len(records(source, "lists/scenes_web.json")) == 80
    assert len(records(source, "lists/scenes_alt.json")) == 20


def test_the_larger_list_has_every_fault_once_and_the_smaller_none(source):
    web = records(source, "lists/scenes_web.json")
    urls = [record["url"] for record in web if "url" in record]
    served = {path.name: path.read_bytes() for path in (source / "served").glob("scenes_web_*")}
    sizes = Counter(size for data in served.values() if (size := size_of(data)))
    assert len(web) - len(urls) == 1
    assert len(urls) - len(set(urls)) == 1
    assert [record["caption"] for record in web].count("") == 1
    assert len({url.rsplit("/", 1)[1] for url in urls} - set(served)) == 1
    assert sum(data.startswith(b"<!DOCTYPE html>") for data in served.values()) == 1
    assert len(served) - len(set(served.values())) == 1
    assert sizes == {(64, 64): 77 - 4, (16, 16): 1, (256, 64): 1}  # of 77 files: HTML, cut off, small and long
    assert {size_of(path.read_bytes()) for path in (source / "served").glob("scenes_alt_*")} == {(64, 64)}


def size_of(data: bytes) -> tuple[int, int] | None:
    try:
        return decode(data).size
    except ValueError:
        return None


def test_every_annotation_names_a_picture_that_is_there(source):
    images = {path.name for path in (source / "images").iterdir()}
    assert len(images) == 40 + 20
    counts = {
        path.stem: len(records(source, f"annotations/{path.name}")) for path in (source / "annotations").iterdir()
    }
    assert counts == {
        "scenes_detail": 20,
        "scenes_vqa": 40,
        "scenes_refer": 20,
        "scenes_identify": 10,
        "scenes_caption": 10,
        "scenes_grounding": 10,
        "scenes_conversation": 10,
        "scenes_text": 10,
        "scenes_test": 24 + 12 + 12 + 4,
    }
    for name in counts:
        assert {
            record["image"] for record in records(source, f"annotations/{name}.json") if "image" in record
        } <= images


def test_the_evaluations_ask_about_held_out_pictures_only(source):
    test = records(source, "annotations/scenes_test.json")
    assert {record["image"].rsplit("_", 1)[0] for record in test if record["split"] != "vqa_unseen"} == {"held_out"}
    assert {record["image"].rsplit("_", 1)[0] for record in test if record["split"] == "vqa_unseen"} == {"unseen"}
    assert Counter(record["split"] for record in test) == {"vqa": 24, "vqa_unseen": 12, "refer": 12, "caption": 4}
    assert all(record["group"] for record in test)


def test_no_training_file_has_a_held_out_picture(source):
    files = [path for path in (source / "annotations").glob("*.json") if path.stem != "scenes_test"]
    kinds = {
        path.stem: {record["image"].rsplit("_", 1)[0] for record in json.loads(path.read_text()) if "image" in record}
        for path in files
    }
    assert {name for name, found in kinds.items() if not found} == {"scenes_text"}
    assert set().union(*kinds.values()) == {"train"}
