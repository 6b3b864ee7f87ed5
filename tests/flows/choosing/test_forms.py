import runpy
from dataclasses import replace
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter, ValidationError

from flows.choosing import forms
from flows.choosing.forms import ALL, Changes, Data, Filled, Machine, PresetName, StageChanges, choice_of, datasets_of
from flows.deployed import stages
from flows.home import default_home
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import NANO, PRESETS, with_list, with_settings


def choice(preset="nano", data=None, changes=None, machine=None, **asked):
    return choice_of(preset, Filled(data or Data(), changes or Changes(), machine or Machine()), **asked)


def test_an_empty_form_is_the_command_without_options():
    empty = choice()
    assert (empty.preset, empty.settings, empty.options, empty.until) == ("nano", (), ("stop_seconds=8",), ())
    assert (empty.only, empty.start_from, empty.list_file, empty.home) == (None, None, None, default_home())


def test_what_is_filled_in_for_a_stage_becomes_its_settings():
    asked = choice(changes=Changes(stage3=StageChanges(peak_rate=2e-5, steps=40, batch=8)))
    preset = with_settings(NANO, asked.settings)
    stage = preset.stages[2]
    assert (stage.schedule.peak, stage.schedule.steps) == (2e-5, 40)
    assert [share.batch for share in stage.mix.values()] == [8]
    assert preset.stages[3] == NANO.stages[3]


def test_a_rank_of_adapters_is_that_of_every_stage_that_has_them():
    four = StageChanges(lora_rank=4)
    preset = with_settings(NANO, choice(changes=Changes(stage2=four, stage3=four, stage4=four)).settings)
    assert [stage.lora and stage.lora.rank for stage in preset.stages] == [None, 4, 4, 4]


def test_a_batch_is_that_of_every_data_set_of_the_stage():
    preset = with_settings(NANO, choice(changes=Changes(stage4=StageChanges(batch=5))).settings)
    assert {share.batch for share in preset.stages[3].mix.values()} == {5}


def test_with_a_list_of_ones_own_the_batch_is_that_of_the_list():
    asked = choice(
        data=Data(lists=["/lists/a.json", "https://127.0.0.2/b.csv"]), changes=Changes(stage1=StageChanges(batch=5))
    )
    assert asked.list_file == "/lists/a.json,https://127.0.0.2/b.csv"
    assert with_settings(with_list(NANO), asked.settings).stages[0].mix["list"].batch == 5


def test_evaluations_are_those_of_every_stage_and_other_settings_come_last():
    asked = choice(changes=Changes(evaluations=["scenes_vqa"], settings=["scenes.seed=9", "stage1.seed=3"]))
    preset = with_settings(NANO, asked.settings)
    assert {stage.evals for stage in preset.stages} == {("scenes_vqa",)}
    assert (preset.scenes.seed, preset.stages[0].seed) == (9, 3)


def test_the_machine_becomes_options():
    asked = choice(machine=Machine(device="cpu", processes=1, packed=True, ray_address="ray://10.0.0.5:10001"))
    assert asked.options == ("device=cpu", "processes=1", "packed=true", "stop_seconds=8")
    assert asked.ray_address == "ray://10.0.0.5:10001"


@pytest.mark.parametrize(
    ("group", "values"),
    [
        (Changes, {"stage3": {"peek_rate": 1e-5}}),
        (Changes, {"stage5": {}}),
        (Changes, {"stage3": {"peak_rate": 2}}),
        (Changes, {"stage3": {"steps": 0}}),
        (Changes, {"evaluations": ["gqua_vqa"]}),
        (Machine, {"device": "tpu"}),
        (Machine, {"cores": 2}),
        (Data, {"list": "/lists/a.json"}),
        (Data, {"lists": ["a.json"]}),
        (Data, {"lists": ["https://127.0.0.2/list.json?ids=1,2"]}),
        (Data, {"images": "pictures"}),
    ],
)
def test_a_misspelled_name_or_a_value_out_of_range_is_refused(group, values):
    with pytest.raises(ValidationError):
        group(**values)


def test_a_preset_is_one_of_the_projects_and_no_file():
    names = TypeAdapter(PresetName)
    assert names.json_schema()["enum"] == list(PRESETS)
    with pytest.raises(ValidationError):
        names.validate_python("my_run.py:MINE")


def test_the_changes_have_a_group_for_every_stage_of_the_presets():
    schema = Changes.model_json_schema()
    names = [f"stage{number}" for number in (1, 2, 3, 4)]
    assert list(schema["properties"]) == [*names, "evaluations", "settings"]
    assert all(schema["properties"][name]["$ref"] == "#/$defs/StageChanges" for name in names)
    assert (schema["title"], schema["additionalProperties"]) == ("Changes", False)


def test_a_preset_of_eleven_stages_has_them_all_in_the_form(monkeypatch):
    more = (*NANO.stages, *(replace(NANO.stages[3], name=f"stage{number}") for number in range(5, 12)))
    monkeypatch.setitem(PRESETS, "long", replace(NANO, name="long", stages=more))
    form = SimpleNamespace(**runpy.run_path(forms.__file__))
    filled = form.Filled(form.Data(), form.Changes(stage11={"steps": 7}), form.Machine())
    assert form.choice_of("long", filled).settings == ("stage11.schedule.steps=7",)
    assert "stage11/train" in form.STEPS
    assert [form.ends_before("long", *pair) for pair in [("stage2", "stage10"), ("stage10", "stage2")]] == [False, True]
    with pytest.raises(ConfigError, match=r"the preset nano has no stage11\. It has: stage1, "):
        form.choice_of("nano", filled)


def test_a_range_that_ends_before_it_begins_is_refused():
    failed = stages.fn(first="stage3", last="stage2")
    assert failed.message == "the range begins with stage3, which comes after its end, stage2"


def test_all_data_sets_are_those_that_the_preset_reads():
    assert datasets_of("nano", Data(), ALL) == tuple(f"{name}/screen" for name in NANO.data)
    assert datasets_of("nano", Data(), "scenes_vqa") == ("scenes_vqa/screen",)
    with pytest.raises(ConfigError, match="the preset nano reads no data set laion"):
        datasets_of("nano", Data(), "laion")
