"""That what the benchmark compares is the same work, and that it measures what it says; not how fast anything is."""

import os
from dataclasses import replace
from itertools import product

import pytest
import torch

from benchmarks.measure import apart, environment, peak_bytes, saved_bytes, seconds_of
from benchmarks.model import CONVENTIONAL, GOALS, TOLERANCE, DifferenceError, differences, ways_of
from benchmarks.ways import CASES
from benchmarks.work import MOST_EXCHANGES, WIDTHS, conversations

NANO = WIDTHS["nano"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def made_ways(case, at_once):
    return {name: make(NANO, at_once) for name, make in ways_of(case).items()}


@pytest.mark.parametrize("case", list(CASES))
def test_every_way_gives_the_conventional_ways_results(case):
    """And there is something to compare: all gradients but those that no loss has, and none of them tiny."""
    ways, is_exact = made_ways(case, at_once=4), CASES[case].is_exact
    assert set(differences(ways, is_exact=is_exact)) == set(ways)
    results = ways[CONVENTIONAL].result()
    if is_exact:
        assert results["the tokens"].shape == (4, 20)
        assert len(results["the tokens"].unique()) > 4
    else:
        assert {name.split(".")[0] for name in results} == {"the loss", "llm", "projections"}
        assert max(float(value.abs().max()) for name, value in results.items() if name != "the loss") > 1e3 * TOLERANCE


def test_a_way_with_other_results_is_refused():
    ways = made_ways("stage 2 step", at_once=2)
    other = ways["padded"]
    wrong = {name: value + 2 * TOLERANCE * (name == "the loss") for name, value in other.result().items()}
    with pytest.raises(DifferenceError, match="padded differs from the conventional way in the loss by 2.0e-05"):
        differences(ways | {"padded": replace(other, result=lambda: wrong)}, is_exact=False)
    with pytest.raises(DifferenceError, match="padded has other results: .'llm.model.final_layernorm.weight'"):
        differences(ways | {"padded": replace(other, result=lambda: {})}, is_exact=False)


def test_goals_name_what_there_is():
    there = {f"{case}, {name}" for case in CASES for name in CASES[case].ours}
    assert GOALS.keys() <= there


def test_talks_are_of_every_length():
    samples = conversations(2 * MOST_EXCHANGES, side=8)
    assert sorted(len(said) for said in samples.turns) == [
        2 * n for n, _ in product(range(1, MOST_EXCHANGES + 1), "ab")
    ]


def test_the_peak_is_what_was_held_at_once():
    """Two blocks of 40 MB one after the other, not at once."""
    found = peak_bytes(lambda: [torch.ones(10_000_000).sum() for _ in range(2)])
    assert 39e6 < found < 60e6


def test_what_autograd_saves_is_counted_once_and_without_parameters():
    """A square of 1000 numbers saves them, 4000 bytes; a Linear saves the same ones, and its weight is its own."""
    linear = torch.nn.Linear(1000, 1, bias=False)
    numbers = torch.ones(1000, requires_grad=True)
    assert saved_bytes(lambda: (numbers * numbers).sum(), linear) == 4000
    assert saved_bytes(lambda: (numbers * numbers).sum() + linear(numbers).sum(), linear) == 4000


def test_ways_take_turns_after_one_to_warm_up():
    order = []
    seconds = seconds_of({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert seconds.keys() == {"a", "b"}


@pytest.mark.parametrize(("malloc", "arenas"), [("kept", "1"), ("default", None)])
def test_processes_measure_under_the_malloc_that_is_asked_for_whatever_was_set_before(monkeypatch, malloc, arenas):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    before = dict(os.environ)
    with environment(malloc):
        assert [apart(os.getenv, name) for name in ("MALLOC_ARENA_MAX", "OMP_NUM_THREADS")] == [arenas, "1"]
    assert dict(os.environ) == before
