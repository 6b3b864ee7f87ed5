import pytest

from tinygptv_core.plain import ConfigError
from tinygptv_core.schedule import rate
from tinygptv_core.stage import Schedule

STAGE1 = Schedule(start=1e-6, peak=1e-4, end=8e-5, warmup_steps=1_000, steps=5_000)
STAGE3 = Schedule(start=1e-6, peak=3e-5, end=1e-5, warmup_steps=200, steps=1_000)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1e-6), (1, 1.099e-6), (999, 9.9901e-5), (1_000, 9.809016994374948e-5), (4_999, 8.000000197392082e-5)],
)
def test_stage_1_has_the_references_rates(step, expected):
    assert rate(STAGE1, step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(199, 2.9855e-5), (200, 2.8090169943749472e-5), (500, 2e-5), (999, 1.000004934798142e-5)],
)
def test_stage_3_has_the_references_rates(step, expected):
    assert rate(STAGE3, step) == pytest.approx(expected, rel=1e-12)


def test_the_rate_is_by_hand_what_the_words_say():
    schedule = Schedule(start=0.0, peak=4.0, end=2.0, warmup_steps=2, steps=6)
    # Warm-up 0, 2; then 3 + cos(pi * step / 6): of 1/3, 1/2, 2/3 and 5/6 of half a turn.
    expected = [0, 2, 3.5, 3, 2.5, 3 - 3**0.5 / 2]
    assert [rate(schedule, step) for step in range(6)] == pytest.approx(expected)


def test_without_warm_up_it_begins_at_the_peak():
    assert rate(Schedule(start=0.0, peak=4.0, end=2.0, warmup_steps=0, steps=6), 0) == 4.0


@pytest.mark.parametrize("step", [-1, 5_000])
def test_a_step_out_of_range_is_refused(step):
    with pytest.raises(ValueError, match=rf"step is {step}; it must lie in 0..4999"):
        rate(STAGE1, step)


def test_a_warm_up_that_starts_above_the_peak_is_at_the_peak():
    schedule = Schedule(start=9.0, peak=4.0, end=4.0, warmup_steps=3, steps=6)
    assert [rate(schedule, step) for step in range(6)] == [4.0] * 6


def test_as_published_the_warm_up_starts_again_in_every_epoch_and_the_rate_may_rise():
    """Epochs of two steps, a warm-up of five: 0, 1/5; 0, 1/5; 0 of the way to the peak; then the cosine."""
    schedule = Schedule(start=0.0, peak=5.0, end=9.0, warmup_steps=5, steps=6, published_epoch_steps=2)
    assert [rate(schedule, step) for step in range(5)] == pytest.approx([0, 1, 0, 1, 0])
    assert rate(schedule, 5) == pytest.approx(7 + 3**0.5)


def test_what_only_the_published_schedule_does_is_refused_without_its_name():
    with pytest.raises(ConfigError, match=r"a rate that rises is refused\. .* named by published_epoch_steps"):
        Schedule(start=0.0, peak=5.0, end=9.0, warmup_steps=5, steps=6)
    with pytest.raises(ConfigError, match=r"warmup_steps is 7; it must lie in 0\.\.6"):
        Schedule(start=0.0, peak=5.0, end=1.0, warmup_steps=7, steps=6)
    with pytest.raises(ConfigError, match="published_epoch_steps is 0"):
        Schedule(start=0.0, peak=5.0, end=1.0, warmup_steps=1, steps=6, published_epoch_steps=0)
