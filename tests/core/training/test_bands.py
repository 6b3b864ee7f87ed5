from dataclasses import replace

import pytest

from tinygptv_core.presets import PRESETS
from tinygptv_core.stages import NANO_STAGE1, NANO_STAGE4, PAPER_STAGE4
from tinygptv_core.training.bands import BANDS, LossBand, band_of


@pytest.mark.parametrize(("loss", "verdict"), [(0.9, "below"), (1.0, "within"), (1.5, "within"), (1.6, "above")])
def test_a_loss_lies_below_within_or_above(loss, verdict):
    assert LossBand(low=1.0, high=1.5, source="").verdict(loss) == verdict


def test_the_stages_as_they_are_have_a_band():
    """A fifth around 0.70; and from a fifth below the paper's table, 1.330, to one above its text, 1.399."""
    nano, paper = band_of("nano", NANO_STAGE1), band_of("paper", PAPER_STAGE4)
    assert nano is not None and (round(nano.low, 2), round(nano.high, 2)) == (0.56, 0.84)
    assert paper is not None and (round(paper.low, 3), round(paper.high, 3)) == (1.064, 1.679)


def test_every_band_is_of_a_stage_that_there_is():
    for name, bands in BANDS.items():
        assert bands.keys() <= {stage.name for stage in PRESETS[name].stages}


def test_another_seed_is_held_against_it_and_other_settings_are_not():
    assert band_of("nano", replace(NANO_STAGE4, seed=1)) == band_of("nano", NANO_STAGE4)
    longer = replace(NANO_STAGE4, schedule=replace(NANO_STAGE4.schedule, steps=321))
    assert band_of("nano", longer) is None
    assert band_of("mine", NANO_STAGE4) is None
