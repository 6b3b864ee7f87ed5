"""How long a step took the last time."""

import json
from dataclasses import replace

from tasks.build import Store
from tasks.step_times import seconds_last_time
from tests.tasks.test_build import counting


def built(store, request, *, time):
    return store.build(request, {}, {}, noted={"run": "r", "time": time}, force=True, waiting=lambda text: None)


def times_of(store, key, seconds):
    """Let the build of that key have taken so long."""
    path = store.root / "keys" / "count" / f"{key}.json"
    record = json.loads(path.read_text())
    record["noted"]["seconds"] = seconds
    path.write_text(json.dumps(record))


def test_it_is_that_of_the_newest_build_of_the_name_without_the_steps_of_a_training(tmp_path):
    store, request = Store(tmp_path), counting(3, [])
    assert seconds_last_time(request, store) is None
    times_of(store, built(store, request, time=1.0).key, 5.0)
    newest = built(store, counting(4, []), time=2.0).key
    times_of(store, newest, 7.0)
    times_of(store, built(store, counting(5, [], name="b/count"), time=3.0).key, 9.0)
    assert seconds_last_time(request, store) == 7.0
    assert seconds_last_time(replace(request, name="c/count"), store) is None
    summary = store.notes(newest) / "summary.json"
    summary.write_text('{"seconds": 4.5}')
    assert seconds_last_time(request, store) == 2.5
    summary.write_text('{"seconds": 100.0}')  # it was stopped and went on: most of its steps are of another process
    assert seconds_last_time(request, store) == 0.0
