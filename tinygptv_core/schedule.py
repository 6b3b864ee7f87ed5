"""The learning rate of a step."""

import math

from tinygptv_core.stage import Schedule


def rate(schedule: Schedule, step: int) -> float:
    """The learning rate of step `step`, 0 <= step < `schedule.steps`.

    Linear from `start` (at step 0) to `peak` (which it would reach at `warmup_steps`); from there on
    the cosine from `peak` to `end` over all steps, without an offset for the warm-up. So the rate
    jumps down at the end of the warm-up, from almost `peak` to where the cosine already is. A `start` above the
    `peak` warms up at the peak.

    Raises:
        ValueError: there is no such step.

    Source: the reference's `linear_warmup_cosine_lr`, which counts the warm-up's steps within an
    epoch and so starts it again in the next one; here they are counted over the whole run, unless
    the schedule is the one as published.
    """
    if not 0 <= step < schedule.steps:
        raise ValueError(f"step is {step}; it must lie in 0..{schedule.steps - 1}")
    if step < schedule.warmup_steps:
        warm = step % schedule.epoch_steps
        return min(schedule.peak, schedule.start + (schedule.peak - schedule.start) * warm / schedule.warmup_steps)
    fraction = (1 + math.cos(math.pi * step / schedule.steps)) / 2
    return schedule.end + (schedule.peak - schedule.end) * fraction
