import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows.choosing.choice import DEFAULT_PRESET, DEFAULT_RULE, typed
from flows.cli import main
from flows.commands.grammar import parser
from flows.home import default_home
from tasks.request import Step
from tests.flows.choices import CHOICE
from tests.ports import kept_port
from tests.tasks.made_store import MadeHome

USUAL = replace(CHOICE, preset=DEFAULT_PRESET, home=default_home(), promote=DEFAULT_RULE)


def test_of_what_is_usual_nothing_is_typed():
    assert typed(USUAL) == []


def test_a_value_that_is_usual_for_another_option_is_typed(monkeypatch):
    monkeypatch.delenv("TINYGPTV_DATA", raising=False)
    asked = replace(USUAL, home=Path("/big"), data=".tinygptv", init="nano", images="first", promote="never")
    words = ["--images", "first", "--data", ".tinygptv", "--home", "/big", "--init", "nano", "--promote", "never"]
    assert typed(asked) == words


def test_settings_and_options_are_typed_each():
    asked = replace(USUAL, settings=("stage1.seed=5", "stage2.seed=6"), options=("processes=1",), bundle=True)
    assert typed(replace(asked, ray_address="a:1")) == ["--ray-address", "a:1", *typed(asked)]
    assert typed(asked) == ["--set", "stage1.seed=5", "--set", "stage2.seed=6", "--option", "processes=1", "--bundle"]


def test_a_home_is_absolute_however_it_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/users/me")
    monkeypatch.setenv("TINYGPTV_HOME", "kept")
    homes = [parser().parse_args(["run", *typed]).home for typed in ([], ["--home", "big"], ["--home", "~/big"])]
    assert homes == [tmp_path / "kept", tmp_path / "big", Path("/users/me/big")]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["data", "laion"], "reads no data set laion. It reads: scenes_web, "),
        (["data", "laion"], "\n  there is a recipe laion; the preset nano has no settings for it (docs/adding.md)\n"),
        (["data", "scenes_wb"], "reads no data set scenes_wb. Did you mean scenes_web? It reads: scenes_web, "),
        (["train", "stage9"], "the preset nano has no stage9. Did you mean stage4? It has: stage1, stage2, "),
    ],
)
def test_a_data_set_or_stage_that_the_preset_has_not_is_refused_with_those_it_has(tmp_path, capsys, argv, told):
    assert main([*argv, "--home", str(tmp_path / "home")]) == 2
    said = capsys.readouterr().err
    assert told in said and "/screen" not in said and "/train" not in said
    assert not (tmp_path / "home").exists()


LIST = ("http://10.0.0.5/1.jpg", "http://localhost:8000/2.jpg", "http://[::1]/3.jpg")


def listed(folder, *urls):
    (folder / "my.json").write_text(json.dumps([{"url": url, "caption": "a red circle"} for url in urls]))
    return ["--list", str(folder / "my.json"), "--home", str(folder / "home")]


def test_a_list_whose_hosts_will_all_be_refused_is_refused_before_anything_is_fetched(tmp_path, capsys):
    argv = listed(tmp_path, *LIST)
    told = "--allow-host 10.0.0.5 --allow-host ::1 --allow-host localhost\n"
    assert main(["plan", *argv]) == 0
    assert capsys.readouterr().out.endswith(told)
    assert main(["run", *argv]) == 2
    said = capsys.readouterr().err
    assert said.endswith(told) and "nothing of it can be fetched (refused_address)" in said
    assert not (tmp_path / "home").exists()


def test_of_many_hosts_that_will_be_refused_the_first_are_in_a_command_that_can_be_typed(tmp_path, capsys):
    assert main(["plan", *listed(tmp_path, *(f"http://10.0.0.{place}/1.jpg" for place in range(1, 9)))]) == 0
    *_, sentence, command = capsys.readouterr().out.splitlines()
    assert sentence.endswith(": 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5, and 3 more.")
    allowing = " ".join(f"--allow-host 10.0.0.{place}" for place in range(1, 6))
    assert command == f"  to fetch from the first of them all the same  {allowing}"


@pytest.mark.parametrize(
    ("urls", "more"),
    [
        (LIST, ["--allow-host", "LOCALHOST"]),
        ([*LIST, "http://a.example/1.jpg"], []),
        ([*LIST, "http://8.8.8.8/1.jpg"], []),
    ],
)
def test_a_list_of_which_something_may_be_fetched_is_not_refused(tmp_path, capsys, urls, more):
    assert main(["plan", *listed(tmp_path, *urls), *more]) == 0
    assert "can be fetched" not in capsys.readouterr().out


def test_a_list_on_a_server_that_is_not_there_is_one_message_that_names_it(tmp_path, capsys):
    """ftp is connected to as soon as it is named."""
    address = f"ftp://127.0.0.1:{kept_port()}/my.json"
    assert main(["plan", "--list", address, "--home", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"tinygptv: {address} cannot be reached: Connection refused\n"


def test_a_plan_counts_what_a_list_holds(tmp_path, capsys):
    assert main(["plan", *listed(tmp_path, "http://a.example/1.jpg", "http://a.example/2.jpg")]) == 0
    assert "to fetch: at most 2 rows, " in capsys.readouterr().out


def test_a_plan_on_a_new_home_says_once_that_nothing_is_built(tmp_path, capsys):
    home = tmp_path / "home"
    assert main(["plan", "--home", str(home)]) == 0
    assert capsys.readouterr().out.startswith(f"nothing is built yet on {home}: every step is to be built\n\nbuild ")
    draw = Step(name="draw", kind="source", version=1)
    MadeHome(root=home).build("other/draw", draw, {}, {}, lambda _, folders: (folders.out / "list").touch())
    assert main(["plan", "--home", str(home)]) == 0
    assert capsys.readouterr().out.startswith("build ")


def test_what_has_no_recipe_is_not_said_to_have_one(tmp_path, capsys):
    assert main(["data", "nope", "--home", str(tmp_path / "home")]) == 2
    assert "recipe" not in capsys.readouterr().err
