import json

import pytest

from tinygptv_core.training.metrics import MetricsFile, Tail, left, numbers, words


def line(step: int) -> dict[str, float]:
    return {"step": step, "loss": 2.0, "samples_per_second": 64.4, "seconds": 1.5 * step}


def test_metrics_go_on_where_the_run_does(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    MetricsFile(path, after_step=2).write({"step": 3, "loss": 0.5})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 0.5}\n'


def test_a_tail_gives_each_step_once_even_when_a_resumed_run_writes_it_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    first = MetricsFile(path, after_step=0)
    for step in (1, 2, 3):
        first.write(line(step))
    assert [item["step"] for item in tail.read()] == [1, 2, 3]
    assert tail.read() == []
    resumed = MetricsFile(path, after_step=1)
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


def test_lines_that_a_broken_disk_left_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps(line(step)).encode() for step in (1, 2, 4)]
    path.write_bytes(
        b"\n".join([whole[0], b'{"step": 2, "lo\0\0', whole[1], b'{"step": 3}\xff\xfe', b"[3]", whole[2]]) + b"\n"
    )
    assert [item["step"] for item in Tail(path).read()] == [1, 2, 4]
    MetricsFile(path, after_step=2)
    assert path.read_bytes() == b"\n".join(whole[:2]) + b"\n"


def test_a_line_that_cannot_be_written_names_the_file(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", after_step=0)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match=r"Is a directory: .*metrics\.jsonl"):
        metrics.write(line(1))


def test_words_say_how_it_goes():
    assert words(line(10)) == "loss 2.000, 64 samples/s"
    assert words({**line(10), "loss_mean": 2.25, "mfu": 0.412}) == "loss 2.250, 64 samples/s, 41% of peak"


def test_what_is_left_takes_as_long_as_the_steps_before_it():
    assert left(line(10), total=60) == "1:15"
    assert left(line(10), total=4_930) == "2:03:00"


def test_every_number_of_a_line_has_a_name_of_its_own():
    told = {
        **line(5), "gradient_norm": None, "losses": {"a": 1.0, "b": 3.0}, "step_seconds": {"data": 0.25}, "warnings": []
    }  # fmt: skip
    assert numbers(told) == {
        "loss": 2.0, "samples_per_second": 64.4, "loss/a": 1.0, "loss/b": 3.0, "seconds/data": 0.25
    }  # fmt: skip
    assert numbers({"step": 1, "loss": 2.0}) == {"loss": 2.0}
