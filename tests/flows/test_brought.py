"""What a user brings: planned without it, refused before a run begins, and made into shards once it is there."""

import io
import json
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import data_recipes
from flows.choosing.choice import Prepared, prepare
from flows.cli import main
from flows.commands.grammar import parser
from flows.commands.options import choice_of
from flows.inputs import picture_sets, pictures_name
from flows.plan import lacking_files, resolve
from tasks.build import BuildResult, Store
from tasks.tables import read_counts
from tests.tasks.shards import step_folders
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import NANO, PAPER, with_instruct
from tinygptv_core.run import DataFolders
from tinygptv_core.shards import ShardSet
from tinygptv_core.stage import Share

CONVERSATION = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A bus."}]


def picture(colour: str, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(file, form)
    return file.getvalue()


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


GQA = {
    "gqa/train_balanced_questions.json": [
        {"image": "1.jpg", "question": "Is it red?", "answer": "Yes"},
        {"image": "2.jpg", "question": "Is it red?", "answer": "No"},
    ],
    "gqa/images/1.jpg": picture("red"),
}


@pytest.fixture(autouse=True)
def no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TINYGPTV_DATA", raising=False)


def prepared(home: Path, *options: str, writes: bool = False, until: tuple[str, ...] = ()) -> Prepared:
    return prepare(choice_of(parser().parse_args(["run", "--home", str(home), *options]), until), writes=writes)


def build(found: Prepared) -> dict[str, BuildResult]:
    """The selected steps, made one after another without Prefect."""
    store: Store = found.environment.store
    built: dict[str, BuildResult] = {}
    for request in found.selection.walked:
        artifacts = {name: item.artifact for name, item in built.items()}
        noted = {"run": "r", "time": time.time()}
        built[request.name] = store.build(
            request, resolve(request, artifacts), {}, noted=noted, force=False, waiting=lambda text: None
        )
    return built


def samples(found: Prepared, built: dict[str, BuildResult], name: str) -> ShardSet:
    sets = {item.name: built[pictures_name(item)].artifact.path for item in picture_sets([name]).values()}
    folders = DataFolders(
        shards=built[f"{name}/fetch"].artifact.path, index=built[f"{name}/screen"].artifact.path, pictures=sets
    )
    return ShardSet(folders)


def test_the_paper_is_planned_without_any_of_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "--preset", "paper", "--home", str(tmp_path / "home")]) == 0
    told = capsys.readouterr().out
    for name in (*PAPER.data, "stage4/train", "coco_train2014/pictures"):
        assert f"build  {name}" in told
    assert "http://images.cocodataset.org/zips/train2014.zip" in told
    (wanting,) = re.findall(r"^(.+, .+): there is no refcoco/refs\(unc\)\.p\.$", told, re.M)
    assert set(wanting.split(", ")) == {"refcoco/rows", "invrefcoco/rows", "refcoco_test/rows"}
    assert told.count("--data DIR") == 1
    assert not (tmp_path / "home").exists()


def test_a_run_of_the_paper_is_refused_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--preset", "paper", "--home", str(tmp_path / "home")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tinygptv: 45 of ") and "Traceback" not in told
    assert not (tmp_path / "home" / "store").exists()


def test_a_data_set_needs_its_own_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--preset", "paper", "--home", str(tmp_path / "home"), "--data", str(write(tmp_path / "data", {"x": 1}))]
    assert main(["data", "gqa", *options]) == 2
    told = capsys.readouterr().err
    assert "2 of 5 steps lack files" in told and "gqa/images.zip" in told and "coco" not in told


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "--home", str(tmp_path / "home"), "--data", str(tmp_path / "none")]) == 2
    assert f"--data {tmp_path}/none: there is no folder" in capsys.readouterr().err


def test_what_is_brought_becomes_shards_and_its_place_bears_on_nothing(tmp_path: Path):
    options = ("--preset", "paper", "--data", str(write(tmp_path / "data", GQA)))
    found = prepared(tmp_path / "home", *options, until=("gqa/screen",), writes=True)
    built = build(found)
    assert [name for name in built] == ["gqa_images/pictures", "gqa/rows", "gqa/filter", "gqa/fetch", "gqa/screen"]
    sample = samples(found, built, "gqa")[0]
    assert (sample.picture, [turn.text for turn in sample.turns]) == (GQA["gqa/images/1.jpg"], ["is it red?", "yes"])
    assert read_counts(built["gqa/fetch"].artifact.path)["dropped"] == {"missing": 1}
    (tmp_path / "data").rename(tmp_path / "moved")
    again = prepared(tmp_path / "home", "--preset", "paper", "--data", str(tmp_path / "moved"), until=("gqa/screen",))
    assert {item.action for item in again.planned} == {"reuse"}
    write(tmp_path / "moved", {"gqa/images/2.jpg": picture("blue")})
    changed = prepared(tmp_path / "home", "--preset", "paper", "--data", str(tmp_path / "moved"), until=("gqa/screen",))
    assert [item.step for item in changed.planned if item.action == "reuse"] == ["gqa/rows", "gqa/filter"]


def test_files_of_another_size_than_was_published_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """What was published of refvg weighs 712 and 18 MB, and its pictures 9.2 and 5.5 GB; none of it is an error."""
    region = {"phrase": "a bus", "x": 0, "y": 0, "width": 9, "height": 9}
    regions = [{"id": 1, "regions": [region]}]
    sizes = [{"image_id": 1, "url": "https://a.example/1.jpg", "width": 20, "height": 10}]
    files = {"region_descriptions.json": regions, "image_data.json": sizes}
    archives = {}
    for name, folder in (("images.zip", "VG_100K"), ("images2.zip", "VG_100K_2")):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{folder}/1.jpg", picture("red"))
        archives[name] = file.getvalue()
    data = write(tmp_path / "data" / "visual_genome", {**files, **archives}).parent
    build(prepared(tmp_path / "home", "--preset", "paper", "--data", str(data), until=("refvg/screen",), writes=True))
    told = [message for message in caplog.messages if "bytes, where about" in message]
    assert {Path(message.partition(" has ")[0]).name for message in told} == {*files, *archives}


def test_the_folder_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TINYGPTV_DATA", str(write(tmp_path / "data", GQA)))
    found = prepared(tmp_path / "home", "--preset", "paper", until=("gqa/screen",))
    assert lacking_files(found.selection) is None


RECORDS = [
    {"id": "1", "image": "sub/1.gif", "conversations": CONVERSATION},
    {"id": "2", "image": "none.jpg", "conversations": CONVERSATION},
    {"id": "3", "image": "../secret.jpg", "conversations": CONVERSATION},
    {"id": "4", "conversations": CONVERSATION},
    {"id": "5", "image": "sub/1.gif", "conversations": CONVERSATION[:1]},
]


def test_own_conversations_take_the_place_of_what_the_instruction_stages_draw_from(tmp_path: Path):
    write(tmp_path, {"my.json": RECORDS, "images/sub/1.gif": picture("red", "GIF"), "secret.jpg": picture("blue")})
    options = ("--instruct", str(tmp_path / "my.json"), "--images", str(tmp_path / "images"))
    found = prepared(tmp_path / "home", *options, until=("instruct/screen",), writes=True)
    built = build(found)
    conversations = samples(found, built, "instruct")
    assert [conversations[place].picture for place in range(len(conversations))] == [picture("red", "GIF")]
    assert read_counts(built["instruct/rows"].artifact.path)["dropped"] == {"broken_record": 1, "no_picture": 1}
    assert read_counts(built["instruct/fetch"].artifact.path)["dropped"] == {"missing": 2}


def test_only_the_instruction_stages_draw_from_own_conversations():
    mixes = [dict(stage.mix) for stage in with_instruct(NANO).stages]
    first, second = NANO.stages[0].mix, NANO.stages[1].mix
    assert mixes == [first, second, *[{"instruct": Share(weight=1, batch=32)}] * 2]
    assert set(with_instruct(NANO).data) == {"instruct", *first, *second, "scenes_test"}
    assert [next(iter(stage.mix)) for stage in with_instruct(PAPER).stages[2:]] == ["instruct"] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--instruct", "my.json"], "--instruct FILE and --images DIR go together"),
        (["--images", "images"], "--instruct FILE and --images DIR go together"),
        (["--instruct", "my.json", "--images", "none"], "--images none: there is no folder"),
        (["--instruct", "none.json", "--images", "images"], "there is no file"),
        (["--instruct", "wrong.json", "--images", "images"], "Its columns are: text"),
    ],
)
def test_a_mistake_with_own_conversations_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
):
    write(tmp_path, {"my.json": RECORDS, "wrong.json": [{"text": "x"}], "images/1.jpg": picture("red")})
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--home", "home", *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "home" / "store").exists()


UNDRAWN = """
from dataclasses import replace
from tinygptv_core.presets import INSTRUCTION, NANO, PAPER, variant
from tinygptv_core.stages import Share

def with_undrawn(preset, name):
    stage = preset.stages[3]
    data = {**preset.data, "undrawn": INSTRUCTION}
    return variant(replace(preset, data=data), name, name, replace(stage, mix={"undrawn": Share(weight=1, batch=2)}))

DRAWN, BROUGHT = with_undrawn(NANO, "drawn"), with_undrawn(PAPER, "brought")
"""


def test_a_recipe_without_files_of_what_is_not_drawn_says_what_it_lacks(tmp_path: Path, monkeypatch):
    text = "from dataclasses import replace\nfrom data_recipes import scenes_vqa\n"
    text += "RECIPE = replace(scenes_vqa.RECIPE, source='annotations/mine.json')\n"
    write(tmp_path, {"undrawn.py": text.encode(), "presets.py": UNDRAWN.encode(), "annotations/other.json": []})
    monkeypatch.setattr(data_recipes, "__path__", [*data_recipes.__path__, str(tmp_path)])
    found = prepared(tmp_path / "home", "--preset", f"{tmp_path}/presets.py:DRAWN", until=("undrawn/screen",))
    (rows,) = (request for request in found.selection.walked if request.name == "undrawn/rows")
    told = "annotations/mine.json, which no step of this preset makes: files in data_recipes/undrawn.py must say how"
    with pytest.raises(ConfigError, match=told):
        rows.work({"source": Artifact(kind="source", digest="d", path=tmp_path)}, step_folders(tmp_path / "site"))
    found = prepared(tmp_path / "home", "--preset", f"{tmp_path}/presets.py:BROUGHT", until=("undrawn/screen",))
    assert told in (lacking_files(found.selection) or "")
