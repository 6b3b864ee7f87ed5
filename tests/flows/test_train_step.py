"""What a training step is asked for."""

from dataclasses import replace

from flows.train import train_step
from tests.flows.test_screen_steps import PLACE
from tinygptv_core.presets import NANO
from tinygptv_core.stages import NANO_STAGES


def config_of(stage, earlier):
    return train_step(stage, earlier, {}, NANO.backbones, PLACE).config


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
