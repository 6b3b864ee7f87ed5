from dataclasses import replace
from pathlib import Path

import pytest

from flows.choosing.choice import DEFAULT_PRESET, DEFAULT_RULE, typed
from flows.cli import main
from flows.commands.grammar import parser
from flows.home import default_home
from tests.flows.choices import CHOICE

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
    assert not (tmp_path / "home" / "store").exists()


def test_what_has_no_recipe_is_not_said_to_have_one(tmp_path, capsys):
    assert main(["data", "nope", "--home", str(tmp_path / "home")]) == 2
    assert "recipe" not in capsys.readouterr().err
