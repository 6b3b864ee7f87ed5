"""How long a step took the last time."""

import json
from dataclasses import replace

import pytest

from tasks.build import Store
from tasks.step_times import seconds_last_time
from tasks.train import TRAIN
from tests.tasks.test_build import counting
from tinygptv_core.plain import ConfigError

TOLD = {"samples_per_second": 1.0, "peak_memory_bytes": 1}


def built(store, request, *, time, seconds):
    """The key of a build that took so long."""
    noted = {"run": "r", "time": time}
    key = store.build(request, {}, {}, noted=noted, force=True, waiting=lambda text: None).key
    path = store.root / "keys" / request.step.name / f"{key}.json"
    record = json.loads(path.read_text())
    record["noted"]["seconds"] = seconds
    path.write_text(json.dumps(record))
    return key


def seconds_of(request, store):
    return seconds_last_time(request, store, store.records_of)


def test_it_is_that_of_the_newest_build_of_the_name(tmp_path):
    store, request = Store(tmp_path), counting(3, [])
    assert seconds_of(request, store) is None
    built(store, request, time=1.0, seconds=5.0)
    built(store, counting(4, []), time=2.0, seconds=7.0)
    built(store, counting(5, [], name="b/count"), time=3.0, seconds=9.0)
    assert seconds_of(request, store) == 7.0
    assert seconds_of(replace(request, name="c/count"), store) is None


def test_of_a_training_it_is_what_is_beside_its_steps_and_nothing_where_they_are_not_known(tmp_path):
    """Or they would count twice: they are estimated apart."""
    store, training = Store(tmp_path), replace(counting(3, []), name="stage1/train", step=TRAIN)
    summary = store.notes(built(store, training, time=1.0, seconds=7.0)) / "summary.json"
    assert seconds_of(training, store) is None
    summary.write_text(json.dumps({**TOLD, "seconds": 4.5}))
    assert seconds_of(training, store) == 2.5
    # It was stopped and went on: most of its steps are of another process.
    summary.write_text(json.dumps({**TOLD, "seconds": 100.0}))
    assert seconds_of(training, store) == 0.0


def test_a_damaged_summary_is_one_message_with_its_path(tmp_path):
    store, training = Store(tmp_path), replace(counting(3, []), name="stage1/train", step=TRAIN)
    summary = store.notes(built(store, training, time=1.0, seconds=7.0)) / "summary.json"
    summary.write_text('{"seconds": 4')
    with pytest.raises(ConfigError, match=f"^{summary} is damaged: "):
        seconds_of(training, store)
