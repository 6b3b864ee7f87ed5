import json

from tinygptv_core.metrics import Metrics, Tail, words


def line(step: int) -> dict[str, float]:
    return {"step": step, "loss": 2.0, "samples_per_second": 64.4, "seconds": 1.5 * step}


def test_metrics_go_on_where_the_run_does(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    Metrics(path, after_step=2).write({"step": 3, "loss": 0.5})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 0.5}\n'


def test_a_tail_gives_each_step_once_even_when_a_resumed_run_writes_it_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    first = Metrics(path, after_step=0)
    for step in (1, 2, 3):
        first.write(line(step))
    assert [item["step"] for item in tail.read()] == [1, 2, 3]
    assert tail.read() == []
    resumed = Metrics(path, after_step=1)
    for step in (2, 3, 4, 5):
        resumed.write(line(step))
    assert [item["step"] for item in tail.read()] == [4, 5]


def test_a_line_that_is_still_being_written_waits(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps(line(1))
    path.write_text(whole[:9])
    tail = Tail(path)
    assert tail.read() == []
    path.write_text(whole + "\n")
    assert [item["step"] for item in tail.read()] == [1]


def test_words_say_how_long_it_will_take():
    assert words(line(10), total=60) == "loss 2.000, 64 samples/s, 1:15 left"
