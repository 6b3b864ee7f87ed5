"""What a training step is asked for."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from flows.train import train_step
from tasks.request import StepFolders
from tasks.track import Tracking
from tests.flows.test_screen_steps import ENVIRONMENT
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import NANO, PAPER
from tinygptv_core.stages import NANO_STAGES


def config_of(stage, earlier):
    return train_step(stage, earlier, {}, NANO.backbones, ENVIRONMENT).config


def test_a_stage_goes_on_about_where_those_before_it_ended():
    first, second, third, _ = NANO_STAGES
    assert "seen" not in config_of(first, ())
    seen = config_of(second, (first,))["seen"]
    assert seen.keys() == {"scenes_web", "scenes_alt"}
    assert 0 <= sum(seen.values()) - first.schedule.steps * 32 < 2 * 32  # each rounded up to a batch
    assert "seen" not in config_of(third, (first, second))


def test_a_stage_in_another_order_begins_at_its_beginning():
    first, second, *_ = NANO_STAGES
    assert "seen" not in config_of(replace(second, seed=first.seed + 1), (first,))


def test_a_stage_is_not_tried_before_its_data_are_there():
    """All that it reads is there but the shards of one data set."""
    request = train_step(NANO_STAGES[1], NANO_STAGES[:1], {}, NANO.backbones, ENVIRONMENT)
    assert request.probe is not None
    lacking = dict.fromkeys(request.inputs, NANO) | {"shards.scenes_web": None}
    assert request.probe(lacking) is None


@pytest.mark.parametrize(("preset", "least", "most"), [(NANO, 1e6, 1e8), (PAPER, 7e9, 9e9)], ids=["nano", "paper"])
def test_before_the_backbones_are_there_their_sizes_say_what_training_takes(preset, least, most):
    """The paper's 3.8 billion frozen weights are in 16 bit; nano's are all in float32."""
    environment = SimpleNamespace(options=preset.options, store=None)
    request = train_step(preset.stages[0], (), {}, preset.backbones, environment)
    assert request.estimate is not None
    estimate = request.estimate(dict.fromkeys(request.inputs))
    assert estimate.by == "arithmetic"
    assert least < estimate.memory_bytes < most


@pytest.mark.parametrize("goes_on", [False, True], ids=["anew", "goes on"])
def test_what_another_run_has_told_of_a_stage_is_forgotten_unless_this_one_goes_on(tmp_path, goes_on):
    """The workers cannot be had, so that nothing but the notes changes."""

    @contextmanager
    def none():
        raise RuntimeError("no workers")
        yield

    folders = StepFolders(out=tmp_path / "out", scratch=tmp_path / "scratch", notes=tmp_path / "notes")
    for folder in (folders.out, folders.scratch, folders.notes):
        folder.mkdir()
    told = folders.notes / "metrics.jsonl"
    told.write_text("{}\n")
    if goes_on:
        (folders.scratch / "state-3").mkdir()
    tracking = Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="nano", artifacts=tmp_path)
    (tmp_path / "counts.json").write_text('{"rows": 1, "kept": 1, "dropped": {}}')
    environment = SimpleNamespace(tracking=tracking, pipeline_run=None, workers=none)
    request = train_step(NANO_STAGES[0], (), {}, NANO.backbones, environment)
    inputs = dict.fromkeys(request.inputs, Artifact(kind="shards", digest="0" * 64, path=tmp_path))
    with pytest.raises(RuntimeError, match="no workers"):
        request.work(inputs, folders)
    assert told.exists() == goes_on
