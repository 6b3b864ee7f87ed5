import json
from pathlib import Path

import pytest

from tinygptv_core.watch import Watch, is_dead, leap_above

CURVES = json.loads((Path(__file__).parent / "nano_curves.json").read_text())
"""nano's stages -> [[data set, loss, gradients' norm], ...] of every step, as a run had them."""


def warnings(curve):
    """What a run with this curve would have been warned of, with a line every fifth step."""
    watch, found = Watch(), []
    for step, (dataset, loss, norm) in enumerate(curve, start=1):
        found += watch.see_loss(step, dataset, loss)
        found += watch.see_norm(step, norm) if step % 5 == 0 else []
    return found


def test_a_loss_leaps_ten_deviations_above_the_median():
    """Of 1.8, 1.9, ... 2.2 the median is 2 and the median absolute deviation 0.1: ten deviations are 1.4826."""
    assert leap_above([1.8, 1.9, 2.0, 2.1, 2.2] * 2) == pytest.approx(3.4826)
    assert leap_above([2.0] * 10) == 2.5
    assert leap_above([2.0] * 9) is None


def test_a_leap_is_told_once_until_it_is_over():
    curve = [("a", 2.0, 1.0)] * 10 + [("a", 9.0, 1.0)] * 3 + [("a", 2.0, 1.0), ("a", 8.0, 1.0)]
    assert warnings(curve) == [
        "the loss leapt to 9.000 at step 11, on a, from a median of 2.000",
        "the loss leapt to 8.000 at step 15, on a, from a median of 2.000",
    ]


def test_what_is_usual_for_one_data_set_may_be_a_leap_for_another():
    usual = [("a", 2.0, 1.0), ("b", 9.0, 1.0)] * 10
    assert warnings([*usual, ("b", 9.0, 1.0)]) == []
    assert warnings([*usual, ("a", 9.0, 1.0)]) == ["the loss leapt to 9.000 at step 21, on a, from a median of 2.000"]


def test_gradients_are_dead_at_0_or_far_below_what_is_usual():
    assert is_dead([], 0.0)
    assert not is_dead([1.0] * 10, 1e-4)
    assert is_dead([1.0] * 10, 9e-5)
    assert not is_dead([1.0] * 9, 9e-5)


def test_dead_gradients_are_told_once_after_three_lines():
    watch = Watch()
    norms = [1.0, 0.0, 0.0, 1.0, 0.0, None, 0.0, 0.0, 0.0, 0.0]
    told = {step: watch.see_norm(step, norm) for step, norm in enumerate(norms, start=1)}
    assert {step: text for step, text in told.items() if text} == {
        8: ["the gradients are dead at step 8: their norm is 0, from a median of 1"]
    }


@pytest.mark.parametrize("stage", CURVES)
def test_nothing_is_wrong_with_what_nano_does(stage):
    assert warnings(CURVES[stage]) == []


@pytest.mark.parametrize("stage", CURVES)
def test_a_loss_of_nano_that_is_3_too_high_is_told(stage):
    *curve, (dataset, loss, norm) = CURVES[stage]
    (text,) = warnings([*curve, (dataset, loss + 3.0, norm)])
    assert f"at step {len(CURVES[stage])}, on {dataset}" in text
