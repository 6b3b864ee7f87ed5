"""What a logged line says of the steps since the one before it."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from tests.core.tiny_run import OPTIONS, PROMPTS, STAGE
from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.engine import StepResult
from tinygptv_core.parameters import sizes_in
from tinygptv_core.run import RunSpec
from tinygptv_core.settings import SHIPPED
from tinygptv_core.training.flops import needed_flops, work_of
from tinygptv_core.training.metrics_logger import MetricsLogger
from tinygptv_core.training.states import Position

SIZES = sizes_in(SHIPPED / "nano")


class EngineOfFixedSeconds:
    """In the place of an engine: two seconds forward and one back since it was last asked.

    Before it was first asked it has waited for a minute.
    """

    def __init__(self):
        self._waited = 60.0

    def seconds(self):
        waited, self._waited = self._waited, 0.0
        return {"forward": 2.0, "backward": 1.0, "optimizer": 0.0, "communication": waited}


def batch_of(lengths):
    """Text alone: of each sample `lengths` tokens, the last of which is a target."""
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    labels_BT = torch.full(mask_BT.shape, IGNORED)
    labels_BT[range(len(lengths)), torch.tensor(lengths) - 1] = 7
    keys = tuple(map(str, lengths))
    return Batch(images_B3HW=None, ids_BT=mask_BT.long(), labels_BT=labels_BT, mask_BT=mask_BT, slot_B=None, keys=keys)


def result_of(loss, norm=1.0):
    return StepResult(
        loss=torch.tensor(loss, dtype=torch.float64), gradient_norm=None if norm is None else torch.tensor(norm)
    )


def position_at(step, seconds):
    return Position(run="r", step=step, seconds=seconds, loss_first=None)


def spec_in(folder, *, every, steps=100):
    return RunSpec(
        stage=replace(STAGE, schedule=replace(STAGE.schedule, steps=steps)),
        prompts=PROMPTS,
        data={},
        backbones=folder,
        init=None,
        options=replace(OPTIONS, log_every_steps=every),
        out=folder,
        work=folder,
        notes=folder,
        seen={},
    )


def logger_in(folder, *, every, start=0, steps=100, position=None):
    start = position or position_at(start, 10.0 * start)
    spec = spec_in(folder, every=every, steps=steps)
    return MetricsLogger(spec, EngineOfFixedSeconds(), SIZES, rank=0, world_size=1, start=start)


def test_a_line_is_about_all_steps_since_the_one_before(tmp_path):
    """Steps of 5, 3 and 3 samples; (3 + 1) + 1 + 1 positions read and a target for each row here; in 4 seconds."""
    metrics_logger = logger_in(tmp_path, every=3)
    steps = [("shapes", [4, 2], 1.0), ("words", [2], 3.0), ("words", [2], 5.0)]
    for finished, (dataset, lengths, loss) in enumerate(steps, start=1):
        metrics_logger.add(finished, dataset, batch_of(lengths), result_of(loss, 0.25 * finished))
        line = metrics_logger.line(position_at(finished, 4.0 if finished == 3 else 1.0), rate=1e-3)
        assert (line is None) == (finished < 3)
    flops = sum(
        needed_flops(SIZES, work_of(batch_of(lengths), 9), image_size=8, lora_rank=2).total for _, lengths, _ in steps
    )
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 3,
        "loss": 5.0,
        "gradient_norm": 0.75,
        "loss_mean": 3.0,
        "losses": {"shapes": 1.0, "words": 4.0},
        "rate": 1e-3,
        "samples_per_second": 11 / 4,
        "tokens_per_second": 6 / 4,
        "targets_per_second": 4 / 4,
        "flops_per_second": flops / 4,
        "mfu": None,
        "memory_bytes": line["memory_bytes"],
        "seconds": 4.0,
        "step_seconds": pytest.approx(
            {"data": 0.0, "forward": 2 / 3, "backward": 1 / 3, "optimizer": 0.0, "communication": 0.0, "other": 1 / 3}
        ),
        "warnings": [],
    }


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 0.25), ("float32", None)])
def test_in_16_bits_the_share_is_told_of_what_all_gpus_can_do(tmp_path, monkeypatch, precision, share):
    """Of two that can do 121e12 operations a second each; in float32 nobody knows."""
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA L4")
    spec = spec_in(tmp_path, every=1)
    stage, options = replace(spec.stage, precision=precision), replace(spec.options, device="cuda")
    metrics_logger = MetricsLogger(
        replace(spec, stage=stage, options=options),
        EngineOfFixedSeconds(),
        SIZES,
        rank=0,
        world_size=2,
        start=position_at(0, 0.0),
    )
    work = work_of(batch_of([4]), 9)
    seconds = needed_flops(SIZES, work, image_size=8, lora_rank=2).total / 60.5e12
    assert metrics_logger._speed(1, work, seconds)["mfu"] == (share and pytest.approx(share))


def test_the_last_step_is_logged_and_a_resumed_run_counts_from_where_it_began(tmp_path):
    metrics_logger = logger_in(tmp_path, every=50, start=6, steps=8)
    for finished in (7, 8):
        metrics_logger.add(finished, "words", batch_of([2]), result_of(1.0, None))
        line = metrics_logger.line(position_at(finished, 10.0 * finished), rate=0.0)
    assert (line["step"], line["samples_per_second"], line["gradient_norm"]) == (8, 6 / 20, None)


def test_waiting_for_the_loader_is_counted(tmp_path, monkeypatch):
    metrics_logger, now = logger_in(tmp_path, every=2), [0.0]
    monkeypatch.setattr("tinygptv_core.training.metrics_logger.time.monotonic", lambda: now[0])

    def loader():
        for _ in range(2):
            now[0] += 0.5
            yield batch_of([2])

    for finished, batch in enumerate(metrics_logger.waited_for(loader()), start=1):
        now[0] += 2.0
        metrics_logger.add(finished, "words", batch, result_of(1.0))
        line = metrics_logger.line(position_at(finished, now[0]), rate=0.0)
    assert (line["step_seconds"]["data"], line["step_seconds"]["other"]) == (0.5, 0.5)


def test_waiting_while_the_device_computes_takes_no_time_twice(tmp_path, monkeypatch):
    """In 4 seconds a GPU computes for 3, and the host waits for 2: the step has waited for one at most."""
    metrics_logger, now = logger_in(tmp_path, every=1), [0.0]
    monkeypatch.setattr("tinygptv_core.training.metrics_logger.time.monotonic", lambda: now[0])

    def loader():
        now[0] += 2.0
        yield batch_of([2])

    for batch in metrics_logger.waited_for(loader()):
        metrics_logger.add(1, "words", batch, result_of(1.0))
        split = metrics_logger.line(position_at(1, 4.0), rate=0.0)["step_seconds"]
    assert split == {
        "data": 1.0, "forward": 2.0, "backward": 1.0, "optimizer": 0.0, "communication": 0.0, "other": 0.0
    }  # fmt: skip
    assert sum(split.values()) == 4.0


def test_a_leap_between_two_lines_is_in_the_next_one_and_told(tmp_path, caplog):
    metrics_logger = logger_in(tmp_path, every=20)
    with caplog.at_level(logging.WARNING):
        for finished in range(1, 21):
            metrics_logger.add(finished, "words", batch_of([2]), result_of(9.0 if finished == 14 else 2.0))
            line = metrics_logger.line(position_at(finished, 1.0 * finished), rate=0.0)
    assert line["warnings"] == ["the loss leapt to 9.000 at step 14, on words, from a median of 2.000"]
    assert [record.message for record in caplog.records] == [f"tiny: {line['warnings'][0]}"]


def test_gradients_that_died_are_in_the_line_and_told(tmp_path, caplog):
    metrics_logger = logger_in(tmp_path, every=2)
    for finished in range(1, 7):
        metrics_logger.add(finished, "words", batch_of([2]), result_of(2.0, 0.0))
        line = metrics_logger.line(position_at(finished, 1.0 * finished), rate=0.0)
    assert line["warnings"] == ["the gradients are dead at step 6: their norm is 0"]
    assert [record.message for record in caplog.records] == [f"tiny: {line['warnings'][0]}"]


def test_a_resumed_run_warns_of_a_leap_from_what_was_usual_before_it_was_stopped(tmp_path):
    """Stopped after step 13, of which the last line told up to 10; the leap is the first step after that."""
    metrics_logger = logger_in(tmp_path, every=5)
    for finished in range(1, 14):
        metrics_logger.add(finished, "words", batch_of([2]), result_of(2.0))
        metrics_logger.line(position_at(finished, 1.0 * finished), rate=0.0)
    stopped = metrics_logger.position(position_at(13, 13.0))
    assert (len(stopped.unlogged), stopped.watched.losses) == (3, {"words": (2.0,) * 10})
    resumed = logger_in(tmp_path, every=5, position=stopped)
    for finished, loss in ((14, 9.0), (15, 2.0)):
        resumed.add(finished, "words", batch_of([2]), result_of(loss))
        line = resumed.line(position_at(finished, 1.0 * finished), rate=0.0)
    assert line["warnings"] == ["the loss leapt to 9.000 at step 14, on words, from a median of 2.000"]
