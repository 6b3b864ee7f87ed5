"""Every preset is complete: it can be planned by whoever has nothing yet, and says what has to be got."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from flows.choosing import fitting
from flows.choosing.choice import prepare
from flows.choosing.presets import downloads
from flows.cli import main
from flows.commands.grammar import parser
from flows.commands.options import choice_of
from flows.recipes import recipe
from flows.vision_cache import kept_in_evaluation, kept_in_training
from tinygptv_core import evals
from tinygptv_core.plain import ConfigError, from_plain, plain
from tinygptv_core.presets import NANO, ONE_GPU, PRESETS, SMALL, TWO_CORES, Preset, variant, without
from tinygptv_core.stage import Share, samples_drawn
from tinygptv_core.stages import PAPER_STAGES, PUBLISHED_STAGES

DOCS = Path(__file__).parents[3] / "docs"
PAGE, ADDING = DOCS / "reproduction.md", DOCS / "adding.md"
ALL = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def prepared(home, *options, writes=False):
    return prepare(choice_of(parser().parse_args(["run", "--home", str(home), *options])), writes=writes)


@ALL
def test_a_preset_is_planned_with_nothing_there_and_says_what_to_get(preset: Preset, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TINYGPTV_DATA", raising=False)
    assert main(["plan", "--preset", preset.name, "--home", str(tmp_path / "home")]) == 0
    told = capsys.readouterr().out
    steps = [f"{stage.name}/{step}" for stage in preset.stages for step in ("train", "evaluate")]
    assert [step for step in (*steps, "register") if f"build  {step}" not in told] == []
    assert [file.path for file in downloads(preset) if file.path not in told] == []
    assert [role for role in ("vision", "qformer", "llm") if f"backbones.sources.{role}.path" in told] == (
        ["vision", "qformer", "llm"] if preset.backbones.sources else []
    )
    assert not (tmp_path / "home").exists()


@ALL
def test_a_preset_has_settings_for_exactly_the_data_that_it_reads(preset: Preset):
    drawn = {name for stage in preset.stages for name in stage.mix}
    asked = {evals.load(name).dataset for stage in preset.stages for name in stage.evals}
    assert set(preset.data) == drawn | asked
    assert not drawn & asked
    assert all(recipe(name).licence for name in preset.data)


@ALL
def test_a_preset_survives_the_way_through_json(preset: Preset):
    assert from_plain(Preset, plain(preset)) == preset


def test_each_has_a_name_of_its_own_everywhere_and_a_sentence():
    assert len({preset.model_name for preset in PRESETS.values()}) == len(PRESETS)
    assert len({preset.about for preset in PRESETS.values()}) == len(PRESETS)
    assert list(PRESETS) == [preset.name for preset in PRESETS.values()]


def test_presets_are_told_with_their_steps_and_what_they_need(capsys):
    assert main(["presets"]) == 0
    told = {text.split("\n")[0]: text for text in capsys.readouterr().out.strip().split("\n\n")}
    assert list(told) == list(PRESETS)
    assert "stage1 17,000 steps, stage2 20,000 steps, stage3 1,000 steps, stage4 50,000 steps" in told["paper"]
    assert "2,380,000 pictures are fetched, 54.7 GB" in told["paper"]  # it draws at most 2.37 million
    assert "stage1 85,000 steps" in told["paper_17x5000"] and "stage1 85,000 steps" in told["as_published"]
    assert "come with the package" in told["nano"] and "yours: llm, qformer, vision" in told["small"]
    assert "without the norms on queries and keys" in told["paper_no_qk_norm"]


def test_the_published_mistakes_have_names_one_by_one_and_together():
    """(what differs from the paper's, of which stage)."""
    published = dict(zip(("stage1", "stage2", "stage3", "stage4"), PUBLISHED_STAGES, strict=True))
    for name, stage, field, value in (
        ("paper_17x5000", "stage1", "schedule.steps", 17 * 5_000),
        ("paper_stage1_lora", "stage1", "lora", published["stage1"].lora),
        ("paper_rising_rate", "stage4", "schedule", published["stage4"].schedule),
    ):
        changed = [ours for ours, its in zip(PRESETS[name].stages, PAPER_STAGES, strict=True) if ours != its]
        assert [item.name for item in changed] == [stage]
        found = changed[0].schedule.steps if field == "schedule.steps" else getattr(changed[0], field)
        assert found == value
    assert PRESETS["as_published"].stages == PUBLISHED_STAGES
    assert PRESETS["paper_rising_rate"].stages[3].schedule.end == 8e-5


def test_small_reads_its_pictures_twice_and_keeps_what_the_tower_makes_of_them():
    first, second, *_ = SMALL.stages
    assert samples_drawn([first], "cc_sbu") == samples_drawn([second], "cc_sbu") == 450 * 64
    assert SMALL.data["cc_sbu"].fetch.wanted == 450 * 64 + first.held_out_samples
    assert kept_in_training(SMALL) | kept_in_evaluation(SMALL) == {"cc_sbu", "ok_vqa_test"}
    assert {stage.image_size for stage in SMALL.stages} == {224}
    by_hand = {file.path for file in downloads(SMALL) if not file.direct}
    assert by_hand == {"cc_sbu_align/filter_cap.json", "cc_sbu_align/cc_sbu_align.zip"}


def test_the_sum_for_small_speaks_of_its_stages():
    """docs/reproduction.md: | stage 1: 450 steps of 64, ... | 28,800 | ... |."""
    row = r"^\| stage (\d): ([\d,]+) steps of (\d+)(?: to (\d+))?[^|]* \| ([\d,]+) \|"
    told = re.findall(row, PAGE.read_text(), re.M)
    assert len(told) == 4
    for stage, (number, steps, least, most, samples) in zip(SMALL.stages, told, strict=True):
        batches = {share.batch for share in stage.mix.values()}
        drawn = sum(samples_drawn([stage], name) for name in stage.mix)
        assert (stage.name, f"{stage.schedule.steps:,}") == (f"stage{number}", steps)
        assert (min(batches), max(batches)) == (int(least), int(most or least))
        assert int(samples.replace(",", "")) == pytest.approx(drawn, rel=0.02)


def test_the_page_on_variants_names_those_that_there_are():
    named = set(re.findall(r"`(as_published|paper_\w+)`", PAGE.read_text()))
    assert named == PRESETS.keys() - {"nano", "small", "paper"}


def test_the_variants_that_the_page_on_adding_shows_are_made():
    (block,) = re.findall(r"```python\n# my_run.py\n(from dataclasses.*?)```", ADDING.read_text(), re.S)
    made: dict[str, object] = {}
    exec(block, made)
    no_qk_norm, longer = made["NO_QK_NORM"], made["LONGER"]
    assert isinstance(no_qk_norm, Preset) and isinstance(longer, Preset)
    assert no_qk_norm == without(NANO, "qk_norm")
    assert (longer.stages[:3], longer.stages[3].schedule.steps) == (SMALL.stages[:3], 5_000)


STAGE5 = replace(NANO.stages[3], name="stage5", mix={"scenes_conversation": Share(weight=1, batch=16)})


def test_a_variant_with_a_stage_of_a_new_name_has_it_as_its_last():
    found = variant(NANO, "five", "With a fifth stage.", STAGE5)
    assert found.stages == (*NANO.stages, STAGE5)


def test_what_was_trained_on_is_not_asked():
    """Of no stage from then on; one before may have been asked."""
    own = replace(STAGE5, mix={"scenes_test": Share(weight=1, batch=16)})
    with pytest.raises(
        ConfigError, match="stage5.evals has scenes_vqa, which asks scenes_test, and stage5 trains on that"
    ):
        variant(NANO, "v", "", own)
    with pytest.raises(ConfigError, match=r"(?s)stage1 trains on that.*leave scenes_test out of stage1\.mix"):
        variant(NANO, "v", "", replace(NANO.stages[0], mix=own.mix))
    more = replace(NANO, data={**NANO.data, "ok_vqa_test": NANO.data["scenes_test"]})
    assert variant(more, "v", "", replace(own, evals=("ok_vqa",))).stages[4].mix == own.mix


@pytest.mark.parametrize(("file", "name"), [("my_data.py", "MINE"), ("my_stage.py", "FIVE")])
def test_the_files_that_the_page_on_adding_shows_hold_presets(file, name):
    (block,) = re.findall(rf"^ *```python\n( *# {re.escape(file)}\n.*?)^ *```$", ADDING.read_text(), re.S | re.M)
    made: dict[str, object] = {}
    exec(textwrap.dedent(block), made)
    found = made[name]
    assert isinstance(found, Preset)
    if name == "FIVE":
        assert [stage.name for stage in found.stages] == ["stage1", "stage2", "stage3", "stage4", "stage5"]
    else:
        assert found.stages[3].mix.keys() - NANO.stages[3].mix.keys() == {"NAME"} <= found.data.keys()


def test_a_preset_says_how_it_runs_and_options_change_that(tmp_path):
    assert prepared(tmp_path).environment.options == TWO_CORES
    environment = prepared(
        tmp_path, "--preset", "paper", "--option", "micro_batch=4", "--option", "device=cpu"
    ).environment
    options = environment.options
    assert (options.micro_batch, options.device, options.threads) == (4, "cpu", ONE_GPU.threads)
    assert (environment.compute.threads, environment.fetching.processes) == (4, 4)
    changed = prepared(tmp_path, "--preset", "paper", "--option", "processes=2").planned
    assert [item.step for item in changed] == [item.step for item in prepared(tmp_path, "--preset", "paper").planned]


def test_without_a_gpu_a_run_that_computes_on_one_says_so_and_what_helps(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = "{} computes on a GPU, and torch sees none here.\n  to compute on the CPU  --option device=cpu"
    with pytest.raises(ConfigError) as own:
        prepared(tmp_path, "--option", "device=cuda", writes=True)
    assert str(own.value).endswith(said.format("--option device=cuda"))
    with pytest.raises(ConfigError) as papers:
        prepared(tmp_path, "--preset", "paper", writes=True)
    assert "steps lack files" in str(papers.value) and str(papers.value).endswith(said.format("the preset paper"))
    with pytest.raises(ConfigError) as on_cpu:
        prepared(tmp_path, "--preset", "paper", "--option", "device=cpu", writes=True)
    assert "GPU" not in str(on_cpu.value)


def test_a_plan_says_that_there_is_no_gpu_where_there_is_no_driver_of_one(tmp_path, monkeypatch, capsys):
    asked = ["plan", "--home", str(tmp_path / "home"), "--option", "device=cuda"]
    for drivers, is_told in ((("/dev/none",), True), (("/dev/none", "/dev/null"), False)):
        monkeypatch.setattr(fitting, "DRIVERS", drivers)
        assert main(asked) == 0
        assert (
            "--option device=cuda computes on a GPU, and torch sees none here" in capsys.readouterr().out
        ) == is_told


def test_pictures_that_the_tower_cannot_take_are_refused_by_the_plan(tmp_path, capsys):
    for side, near in ((63, "56 or 64"), (7, "8")):
        assert main(["plan", "--home", str(tmp_path), "--set", f"stage3.image_size={side}"]) == 2
        said = f"stage3.image_size is {side}; .* a multiple of 8 px: {near}\n"
        assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("my.py", "--preset my.py must name one of its presets, as in my.py:MINE. There are: NANO, MINE."),
        ("my.py:", "as in my.py:MINE"),
        ("my.py:MINI", "--preset my.py:MINI: there is no preset MINI. Did you mean MINE?"),
        ("none.py", "--preset none.py: there is no file"),
        ("bad.py", "bad.py cannot be run, line 2: ZeroDivisionError: division by zero"),
        ("script.py", "script.py cannot be run, line 2: SystemExit: usage"),
        ("empty.py", "as in empty.py:NAME. There are: none."),
    ],
)
def test_a_file_of_presets_says_what_it_has_or_where_it_fails(tmp_path, capsys, monkeypatch, asked, said):
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text("from tinygptv_core.presets import NANO, variant\nMINE = variant(NANO, 'mine', 'Mine.')\n")
    Path("bad.py").write_text("x = 0\ny = 1 / x\n")
    Path("script.py").write_text("import sys\nsys.exit('usage')\n")
    Path("empty.py").touch()
    assert main(["plan", "--home", "home", "--preset", asked]) == 2
    assert said in capsys.readouterr().err
