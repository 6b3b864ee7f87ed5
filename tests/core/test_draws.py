"""Which steps saw a sample: the order, asked the other way round."""

from dataclasses import dataclass, replace

import pytest

from tests.core.tiny_run import STAGE
from tinygptv_core.draws import Order, Shuffled
from tinygptv_core.stage import Schedule, Share


@dataclass(frozen=True, kw_only=True)
class Rows:
    rows: range


DATA = {"shapes": Rows(rows=range(23)), "words": Rows(rows=range(12))}
STEPS = 40


@pytest.fixture(params=[{}, {"shapes": 17, "words": 5}], ids=["from the start", "going on"])
def order(request):
    stage = replace(STAGE, schedule=Schedule(start=0, peak=1, end=0, warmup_steps=0, steps=STEPS))
    return Order(stage, DATA, request.param)


def test_the_steps_of_a_sample_are_those_whose_batches_have_it(order):
    drawn = [order.batch_at(step) for step in range(STEPS)]
    for name, data in DATA.items():
        wanted = {
            at: [
                step
                for step, draw in enumerate(drawn)
                for place in draw.positions
                if (draw.dataset, place) == (name, at)
            ]
            for at in data.rows
        }
        assert order.steps_of(name, list(data.rows)) == wanted
    assert max(len(steps) for steps in order.steps_of("words", list(range(12))).values()) > 1  # epochs were passed


def test_what_is_held_out_is_seen_by_no_step(order):
    held_out = {draw.dataset: draw.positions for draw in order.held_out()}
    assert [order.is_held_out("shapes", at) for at in held_out["shapes"]] == [True, True]
    assert order.steps_of("shapes", held_out["shapes"]) == {at: [] for at in held_out["shapes"]}


def test_no_more_is_measured_of_a_data_set_than_a_batch_of_it():
    order = Order(replace(STAGE, mix={"shapes": Share(weight=1, batch=1)}), DATA, {})
    assert sum(order.is_held_out("shapes", at) for at in range(23)) == 2
    assert [len(draw.positions) for draw in order.held_out()] == [1]


def test_places_are_found_across_windows_and_epochs(monkeypatch):
    monkeypatch.setattr("tinygptv_core.draws.WINDOW_ROWS", 4)
    shuffled = Shuffled([0, 2, 3, 9, 10, 11, 17], name="d", seed=1, held_out=0)
    taken = shuffled.take(3, 15)  # of epochs of 7: the end of the first, the second, the beginning of the third
    assert shuffled.places(range(7), 3, 15) == {
        at: [3 + place for place, position in enumerate(taken) if position == at] for at in range(7)
    }
    assert shuffled.places([0], 3, 0) == {0: []}
