import json
from pathlib import Path

import pytest

from tinygptv_core.plain import from_plain, plain
from tinygptv_core.training.monitor import WINDOW, MonitorState, TrainingMonitor, is_dead, leap_above

CURVES = json.loads((Path(__file__).parent / "nano_curves.json").read_text())
"""nano's stages -> [[data set, loss, gradients' norm], ...] of every step, as a run had them."""


def warnings(curve, stopped_after=()):
    """What a run with this curve would have been warned of, with a line every fifth step.

    Args:
        stopped_after: the steps after which it was stopped, and went on in another process.
    """
    monitor, found = TrainingMonitor(MonitorState()), []
    for step, (dataset, loss, norm) in enumerate(curve, start=1):
        found += monitor.see_loss(step, dataset, loss)
        found += monitor.see_norm(step, norm) if step % 5 == 0 else []
        if step in stopped_after:
            monitor = TrainingMonitor(from_plain(MonitorState, json.loads(json.dumps(plain(monitor.state())))))
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


def test_a_loss_that_stays_where_it_leapt_to_becomes_usual():
    curve = [("a", 2.0, 1.0)] * 10 + [("a", 9.0, 1.0)] * WINDOW + [("a", 30.0, 1.0)]
    assert warnings(curve) == [
        "the loss leapt to 9.000 at step 11, on a, from a median of 2.000",
        "the loss leapt to 30.000 at step 61, on a, from a median of 9.000",
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
    monitor = TrainingMonitor(MonitorState())
    norms = [1.0, 0.0, 0.0, 1.0, 0.0, None, 0.0, 0.0, 0.0, 0.0]
    told = {step: monitor.see_norm(step, norm) for step, norm in enumerate(norms, start=1)}
    assert {step: text for step, text in told.items() if text} == {
        8: ["the gradients are dead at step 8: their norm is 0, from a median of 1"]
    }


def test_a_resumed_run_knows_what_is_usual_and_what_it_has_told():
    """Ten losses, then a leap of three; the gradients die at the lines of steps 15, 20 and 25."""
    curve = [("a", 2.0, 1.0)] * 10 + [("a", 9.0, 0.0)] * 3 + [("a", 2.0, 0.0)] * 17
    told = [
        "the loss leapt to 9.000 at step 11, on a, from a median of 2.000",
        "the gradients are dead at step 25: their norm is 0, from a median of 1",
    ]
    assert warnings(curve) == told
    assert [warnings(curve, stopped_after={step}) for step in range(1, 30)] == [told] * 29
    assert warnings(curve, stopped_after=range(1, 30)) == told


def test_no_more_is_kept_than_says_what_is_usual():
    monitor = TrainingMonitor(MonitorState(losses={"a": (1.0,) * 2 * WINDOW}, norms=(1.0,) * 2 * WINDOW))
    assert monitor.state() == MonitorState(losses={"a": (1.0,) * WINDOW}, norms=(1.0,) * WINDOW)


@pytest.mark.parametrize("stage", CURVES)
def test_nothing_is_wrong_with_what_nano_does(stage):
    assert warnings(CURVES[stage]) == []


@pytest.mark.parametrize("stage", CURVES)
def test_a_loss_of_nano_that_is_3_too_high_is_told(stage):
    *curve, (dataset, loss, norm) = CURVES[stage]
    (text,) = warnings([*curve, (dataset, loss + 3.0, norm)])
    assert f"at step {len(CURVES[stage])}, on {dataset}" in text
