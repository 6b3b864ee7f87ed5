import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.measure import saved_bytes
from tests.core.tiny_run import OPTIONS, STAGE, elsewhere, tiny_spec
from tinygptv_core.loader import Steps
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import write_spec
from tinygptv_core.train import main, starting_model, train
from tinygptv_core.trainable import trainable_parameters


class StoppedError(Exception):
    """Stands for a kill: raised from the report, out of the middle of a run."""


def quiet(done: int, total: int, text: str) -> None:
    pass


def stop_at(step: int):
    def report(done: int, total: int, text: str) -> None:
        if done == step:
            raise StoppedError

    return report


def summary_of(spec):
    return json.loads((spec.notes / "summary.json").read_text())


def metrics_of(spec):
    return [json.loads(line) for line in (spec.notes / "metrics.jsonl").read_text().splitlines()]


def losses_of(spec):
    return [(line["step"], line["loss"]) for line in metrics_of(spec)]


def tokens_of(spec):
    """Positions and targets of each step."""
    lines = [{"seconds": 0.0}, *metrics_of(spec)]
    return [
        now[name] * (now["seconds"] - before["seconds"])
        for before, now in pairwise(lines)
        for name in ("tokens_per_second", "targets_per_second")
    ]


def weights_of(spec):
    return load_file(spec.out / "trainable.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with dropout, from beginning to end."""
    spec = tiny_spec(tmp_path_factory.mktemp("whole"), dropout=0.1)
    train(spec, 0, 1, quiet)
    return spec


def test_a_run_leaves_a_checkpoint_a_summary_and_a_line_a_step(whole):
    summary = summary_of(whole)
    assert (summary["steps"], summary["world_size"], summary["resumed_from_step"]) == (8, 1, 0)
    assert summary["loss_last"] < summary["loss_first"]
    assert summary["peak_memory_bytes"] > 10_000_000
    assert [line["step"] for line in metrics_of(whole)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert set(metrics_of(whole)[0]) == {
        "step", "loss", "loss_mean", "losses", "rate", "gradient_norm", "samples_per_second", "tokens_per_second",
        "targets_per_second", "flops_per_second", "mfu", "memory_bytes", "seconds", "step_seconds", "warnings",
    }  # fmt: skip
    assert metrics_of(whole)[0]["rate"] == STAGE.schedule.start


def test_every_step_says_where_its_time_went(whole):
    for before, line in pairwise(metrics_of(whole)):
        assert line["step_seconds"].keys() == {"data", "forward", "backward", "optimizer", "communication", "other"}
        assert sum(line["step_seconds"].values()) == pytest.approx(line["seconds"] - before["seconds"], rel=0.01)
        assert min(line["step_seconds"].values()) >= 0 < line["step_seconds"]["forward"]


def test_the_same_run_again_gives_the_same_bytes(whole, tmp_path):
    again = elsewhere(whole, tmp_path)
    train(again, 0, 1, quiet)
    for name in ("trainable.safetensors", "stage.json"):
        assert (again.out / name).read_bytes() == (whole.out / name).read_bytes()


@pytest.mark.parametrize("killed_after", [1, 4, 8])
def test_a_killed_run_goes_on_to_the_same_bits(whole, tmp_path, killed_after):
    """States are saved after steps 3 and 6; what came after the last of them is done again."""
    spec = elsewhere(whole, tmp_path)
    with pytest.raises(StoppedError):
        train(spec, 0, 1, stop_at(killed_after))
    assert not spec.out.exists()
    train(spec, 0, 1, quiet)
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()
    assert losses_of(spec) == losses_of(whole)
    summary = summary_of(spec)
    assert summary["resumed_from_step"] == {1: 0, 4: 3, 8: 6}[killed_after]
    assert summary["loss_first"] == summary_of(whole)["loss_first"]
    assert summary["loss_last"] == summary_of(whole)["loss_last"]
    assert summary["seconds"] == metrics_of(spec)[-1]["seconds"] > metrics_of(spec)[0]["seconds"]


def test_a_damaged_newest_state_costs_its_steps_and_not_the_result(whole, tmp_path):
    spec = elsewhere(whole, tmp_path)
    with pytest.raises(StoppedError):
        train(spec, 0, 1, stop_at(7))
    newest = next(spec.work.glob("state-000000006-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    train(spec, 0, 1, quiet)
    assert summary_of(spec)["resumed_from_step"] == 3
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()


def test_computing_layers_again_changes_no_bit(whole, tmp_path):
    """Loss, gradients, dropout and so the checkpoint are those of the run that kept everything."""
    spec = replace(elsewhere(whole, tmp_path), options=replace(OPTIONS, gradient_checkpointing=True))
    train(spec, 0, 1, quiet)
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()
    assert [(line["loss"], line["gradient_norm"]) for line in metrics_of(spec)] == [
        (line["loss"], line["gradient_norm"]) for line in metrics_of(whole)
    ]


def test_computing_layers_again_keeps_less_for_the_gradient(whole):
    batch = Steps(whole, starting_model(whole)[1], rank=0, world_size=1)[0]
    kept = []
    for again in (False, True):
        spec = replace(whole, options=replace(OPTIONS, gradient_checkpointing=again))
        model = starting_model(spec)[0].train()
        kept.append(saved_bytes(lambda model=model: model(batch), model))
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_16_bit_all_that_is_trained_is_float32(whole, precision):
    model, _ = starting_model(replace(whole, stage=replace(whole.stage, precision=precision)))
    trained = trainable_parameters(model)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    frozen = {parameter.dtype for name, parameter in model.llm.named_parameters() if name.endswith("fc1.weight")}
    assert frozen == {getattr(torch, precision)}


def test_reading_ahead_changes_nothing(whole, tmp_path):
    spec = replace(elsewhere(whole, tmp_path), options=replace(OPTIONS, loader_workers=1))
    train(spec, 0, 1, quiet)
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()


def test_a_stage_starts_from_the_one_before_and_adapters_are_new_once(whole, tmp_path):
    first = replace(elsewhere(whole, tmp_path / "first"), stage=replace(whole.stage, lora=None))
    train(first, 0, 1, quiet)
    assert not [name for name in weights_of(first) if "lora" in name]
    second = replace(elsewhere(whole, tmp_path / "second"), init=first.out)
    train(second, 0, 1, quiet)
    third = replace(elsewhere(whole, tmp_path / "third"), init=second.out)
    train(third, 0, 1, quiet)
    assert summary_of(second)["loss_first"] == pytest.approx(summary_of(first)["loss_last"], abs=1e-5)
    assert summary_of(third)["loss_first"] == summary_of(second)["loss_last"]
    assert weights_of(third).keys() == weights_of(second).keys() > weights_of(first).keys()


def test_the_work_folder_of_another_run_is_refused(whole, tmp_path):
    spec = elsewhere(whole, tmp_path)
    with pytest.raises(StoppedError):
        train(spec, 0, 1, stop_at(4))
    with pytest.raises(ConfigError, match="holds the state of another run"):
        train(replace(spec, stage=replace(spec.stage, seed=12)), 0, 1, quiet)


def test_a_data_set_without_folders_is_named(whole):
    with pytest.raises(ConfigError, match="tiny draws from words, for which data or prompts has nothing"):
        train(replace(whole, data={"shapes": whole.data["shapes"]}), 0, 1, quiet)


def test_a_mistake_on_the_command_line_is_one_message(whole, tmp_path, caplog):
    spec = replace(elsewhere(whole, tmp_path), init=tmp_path / "nothing")
    write_spec(spec, tmp_path / "RUN.json")
    assert main([str(tmp_path / "RUN.json")]) == 2
    assert "holds no checkpoint" in caplog.text


def torchrun(spec, world_size):
    """The command of a bare machine, on loopback alone; it must end well."""
    write_spec(spec, spec.notes.parent / "RUN.json")
    launcher = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", world_size]
    command = [sys.executable, "-m", *map(str, launcher), "-m", "tinygptv_core.train", spec.notes.parent / "RUN.json"]
    done = subprocess.run(command, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def test_two_processes_equal_one(tmp_path):
    """Batches of 5 and 3 fall unevenly on two; without dropout both ways do the same steps, recomputed or not."""
    one = tiny_spec(tmp_path, options=replace(OPTIONS, micro_batch=2))
    two = replace(elsewhere(one, tmp_path / "two"), options=replace(one.options, gradient_checkpointing=True))
    (tmp_path / "two").mkdir()
    train(one, 0, 1, quiet)
    torchrun(two, 2)
    assert summary_of(two)["world_size"] == 2
    assert [loss for _, loss in losses_of(two)] == pytest.approx([loss for _, loss in losses_of(one)], abs=1e-5)
    # What all processes did together: the same positions in another time.
    assert tokens_of(two) == pytest.approx(tokens_of(one))
    single, double = weights_of(one), weights_of(two)
    assert max(float((single[name] - double[name]).abs().max()) for name in single) < 1e-5
