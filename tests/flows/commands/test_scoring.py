"""`tinygptv eval` on a home with a tiny model: found by any of its names, scored once, kept."""

import json

import pytest

from flows.cli import main
from flows.commands.scoring import lines_of
from tasks.register import register_version
from tasks.request import Request, Step
from tasks.sealed import USERS_FOLDER
from tests.tasks.registered import SCORES, new_home, sealed
from tinygptv_core.artifact import Artifact


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A registered model, and four questions for it in the store."""
    home = new_home(tmp_path_factory.mktemp("home"))
    checkpoint = home.checkpoint(1)
    register_version(home.model(checkpoint), home.registration(checkpoint, home.uri))
    return home


def with_data(home):
    """The questions, as a run would have fetched and screened them."""
    made = {}
    for work, kind, folder in (("fetch", "shards", home.data.shards), ("screen", "index", home.data.index)):

        def copy(inputs, folders, folder=folder):
            for path in folder.iterdir():
                (folders.out / path.name).write_bytes(path.read_bytes())

        step = Step(name=work, kind=kind, version=1)
        user = Artifact(kind=USERS_FOLDER, digest="d" * 64, path=home.root)
        inputs = {"shards": made["fetch"]} if work == "screen" else {"table": user}
        request = Request(name=f"scenes_test/{work}", step=step, config={}, inputs=inputs, work=copy)
        made[work] = sealed(home.store, request, inputs)
    return made


def said(capsys, home, *argv):
    status = main(["eval", *argv, "--home", str(home.root)])
    return status, *capsys.readouterr()


def test_without_data_it_is_said_how_they_are_got(home, capsys):
    status, _, told = said(capsys, home, "tinygptv/1")
    assert status == 2 and "holds the data of no evaluation" in told
    there = f"--home {home.root}    for"
    assert (
        f"\n  tinygptv data scenes_test {there} scenes_caption, scenes_refer, scenes_vqa, scenes_vqa_unseen\n" in told
    )
    assert f"\n  tinygptv data gqa_test --preset paper {there} gqa_vqa\n" in told
    status, _, told = said(capsys, home, "tinygptv/1", "--eval", "scenes_vqa")
    assert status == 2 and "tinygptv data scenes_test" in told


def test_a_model_is_scored_once_by_whatever_name_it_is_called(home, capsys):
    with_data(home)
    checkpoint = home.checkpoint(1)
    status, out, told = said(capsys, home, "tinygptv@challenger", "--eval", "scenes_vqa", "--json")
    scores = json.loads(out)
    assert status == 0 and "computed" in told
    (metric,) = scores["scenes_vqa"].values()
    assert metric["n"] == 4 and metric["low"] <= metric["value"] <= metric["high"]
    for name in (checkpoint.digest[:9], str(checkpoint.path), str(home.model(checkpoint).path)):
        status, out, told = said(capsys, home, name, "--eval", "scenes_vqa", "--json")
        assert (status, json.loads(out)) == (0, scores) and "there already" in told
    assert len(list((home.store.root / "scores").iterdir())) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tinygptv/7"], "the model tinygptv has no version 7"),
        (["0123"], "checkpoint 0123: 0 of that name"),
        (["tinygptv/1", "--eval", "gqua_vqa"], "gqa_vqa"),
    ],
)
def test_a_name_that_is_not_there_is_refused(home, capsys, argv, message):
    status, _, told = said(capsys, home, *argv)
    assert status == 2 and message in told


def test_a_folder_of_elsewhere_is_no_model(home, capsys, tmp_path):
    status, _, told = said(capsys, home, str(tmp_path))
    assert status == 2 and "is no folder of a store" in told


def test_scores_are_told_with_interval_and_control():
    head, line = lines_of(SCORES)
    assert head.split() == "evaluation metric value 95 % control 95 % of it n".split()
    assert " ".join(line.split()) == "scenes_vqa accuracy 50.0% 40.0% to 60.0% 20.0% 10.0% to 30.0% 9"
