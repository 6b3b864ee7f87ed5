import time

import pytest
import torch

from tinygptv_core.training.clock import PARTS, Clock


def test_time_goes_to_the_part_that_was_begun_last_and_is_forgotten_when_read():
    clock = Clock(torch.device("cpu"))
    assert clock.read() == dict.fromkeys(PARTS, 0.0)
    began = time.perf_counter()
    clock.mark("forward")
    time.sleep(0.02)
    clock.mark("backward")
    clock.mark("forward")
    time.sleep(0.01)
    clock.mark(None)
    time.sleep(0.01)  # between two steps: nobody's
    passed = time.perf_counter() - began
    told = clock.read()
    assert 0.03 <= told["forward"] <= passed - 0.01
    assert told["forward"] > told["backward"] >= 0
    assert (told["optimizer"], told["communication"]) == (0, 0)
    assert clock.read() == dict.fromkeys(PARTS, 0.0)


def test_a_part_that_is_still_going_on_counts_from_its_next_mark_on():
    clock = Clock(torch.device("cpu"))
    clock.mark("optimizer")
    assert clock.read()["optimizer"] == 0
    time.sleep(0.01)
    clock.mark(None)
    assert clock.read()["optimizer"] >= 0.01


def test_an_unknown_part_is_no_part():
    clock = Clock(torch.device("cpu"))
    clock.mark("data")
    with pytest.raises(KeyError, match="data"):
        clock.mark(None)
