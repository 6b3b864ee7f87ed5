import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.measure import saved_bytes
from tests.core.tiny_run import OPTIONS, PROMPTS, STAGE, elsewhere, tiny_spec
from tinygptv_core.alone import alone
from tinygptv_core.batch import IGNORED
from tinygptv_core.loader import Steps
from tinygptv_core.memory import peak_memory_bytes
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import write_spec
from tinygptv_core.schedule import rate
from tinygptv_core.train import STOPPED, be_deterministic, ddp_engine, main, starting_model, train
from tinygptv_core.trainable import trainable_parameters
from tinygptv_core.training.metrics import Tail
from tinygptv_core.training.not_finite import NotFiniteError
from tinygptv_core.training.saving import StoppedError


class KilledError(Exception):
    """Stands for a kill: raised from the report, out of the middle of a run."""


class StopAfter:
    """Asks to stop once so many steps were done in this process."""

    def __init__(self, steps: int):
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def quiet(done: int, total: int, text: str) -> None:
    pass


def kill_at(step: int):
    def report(done: int, total: int, text: str) -> None:
        if done == step:
            raise KilledError

    return report


def summary_of(spec):
    return json.loads((spec.notes / "summary.json").read_text())


def metrics_of(spec):
    return [json.loads(line) for line in (spec.notes / "metrics.jsonl").read_text().splitlines()]


def samples_of(spec):
    """How many samples all steps had together; a line a step, of one data set."""
    return sum(spec.stage.mix[name].batch for line in metrics_of(spec) for name in line["losses"])


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
    assert [line["rate"] for line in metrics_of(whole)] == [rate(STAGE.schedule, step) for step in range(8)]


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
    with pytest.raises(KilledError):
        train(spec, 0, 1, kill_at(killed_after))
    assert not spec.out.exists()
    train(spec, 0, 1, quiet)
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()
    assert losses_of(spec) == losses_of(whole)
    summary = summary_of(spec)
    assert summary["resumed_from_step"] == {1: 0, 4: 3, 8: 6}[killed_after]
    assert summary["loss_first"] == summary_of(whole)["loss_first"]
    assert summary["loss_last"] == summary_of(whole)["loss_last"]
    seconds = [line["seconds"] for line in metrics_of(spec)]  # of all processes that trained, one after another
    assert summary["seconds"] == seconds[-1] and seconds == sorted(seconds)
    assert summary["samples_per_second"] == pytest.approx(samples_of(spec) / summary["seconds"])


@pytest.mark.parametrize("stopped_after", [1, 3, 7])
def test_a_stopped_run_loses_no_step(whole, tmp_path, stopped_after):
    spec = elsewhere(whole, tmp_path)
    with pytest.raises(StoppedError, match=f"goes on from step {stopped_after}"):
        train(spec, 0, 1, quiet, StopAfter(stopped_after))
    assert not spec.out.exists()
    train(spec, 0, 1, quiet)
    assert summary_of(spec)["resumed_from_step"] == stopped_after
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()
    assert losses_of(spec) == losses_of(whole)


def test_a_line_after_a_resume_is_about_the_steps_before_it_too(whole, tmp_path):
    """Logged after steps 5 and 8, stopped after 6 and 7: the mean at 8 is that of 6, 7 and 8."""
    spec = replace(elsewhere(whole, tmp_path), options=replace(OPTIONS, log_every_steps=5))
    for steps in (6, 1):
        with pytest.raises(StoppedError):
            train(spec, 0, 1, quiet, StopAfter(steps))
    train(spec, 0, 1, quiet)
    losses = [loss for _, loss in losses_of(whole)]
    assert [(line["step"], line["loss_mean"]) for line in metrics_of(spec)] == [
        (5, fmean(losses[:5])),
        (8, fmean(losses[5:])),
    ]
    sets = [name for line in metrics_of(whole)[5:] for name in line["losses"]]
    by_set = {name: fmean(loss for at, loss in zip(sets, losses[5:], strict=True) if at == name) for name in set(sets)}
    assert metrics_of(spec)[1]["losses"] == by_set


def test_a_run_that_is_asked_to_stop_in_its_last_step_ends(whole, tmp_path):
    spec = elsewhere(whole, tmp_path)
    train(spec, 0, 1, quiet, StopAfter(8))
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()


def test_a_notice_outlives_further_kills(whole, tmp_path):
    spec = elsewhere(whole, tmp_path)
    with pytest.raises(StoppedError):
        train(spec, 0, 1, quiet, StopAfter(1))
    next(spec.work.glob("state-000000001-*")).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StoppedError):
            train(spec, 0, 1, quiet, StopAfter(2))
    train(spec, 0, 1, quiet)
    assert [notice[:39] for notice in summary_of(spec)["notices"]] == ["the state after step 1 was damaged (its"]


def test_a_damaged_newest_state_costs_its_steps_and_not_the_result(whole, tmp_path, caplog):
    spec = elsewhere(whole, tmp_path)
    with pytest.raises(KilledError):
        train(spec, 0, 1, kill_at(7))
    newest = next(spec.work.glob("state-000000006-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    train(spec, 0, 1, quiet)
    summary = summary_of(spec)
    assert summary["resumed_from_step"] == 3
    assert summary["notices"] == [
        "the state after step 6 was damaged (its bytes are not those its name says): went on from step 3"
    ]
    assert summary["notices"][0] in caplog.text
    assert sorted(path.name[:15] for path in spec.work.glob("state-*")) == ["state-000000003", "state-000000006"]
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


def test_the_work_folder_of_another_run_is_refused(whole, tmp_path, monkeypatch):
    spec = elsewhere(whole, tmp_path)
    with pytest.raises(KilledError):
        train(spec, 0, 1, kill_at(4))
    prompts = {**PROMPTS, "words": ("say {}",)}
    for other in ({"stage": replace(spec.stage, seed=12)}, {"prompts": prompts}, {"seen": {"words": 3}}):
        with pytest.raises(ConfigError, match="holds the state of another run"):
            train(replace(spec, **other), 0, 1, quiet)
    monkeypatch.setattr("tinygptv_core.train.ORDER_VERSION", 0)  # samples in another order
    with pytest.raises(ConfigError, match="holds the state of another run"):
        train(spec, 0, 1, quiet)


def test_a_run_takes_its_threads_refuses_other_bits_and_tells_its_own_peak_of_memory(whole, tmp_path):
    """Whatever the process had been told, and had held, before."""
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(2)
    held = b"1" * (400 << 20)
    peak = peak_memory_bytes("cpu")
    del held
    spec = elsewhere(whole, tmp_path)
    train(spec, 0, 1, quiet)
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == (True, 1)
    assert summary_of(spec)["peak_memory_bytes"] < peak - (200 << 20)


def test_what_is_told_of_a_step_says_how_long_the_rest_takes(whole, tmp_path):
    told = []
    train(elsewhere(whole, tmp_path), 0, 1, lambda done, total, text: told.append((done, total, text)))
    assert [(done, total) for done, total, _ in told] == [(step, 8) for step in range(1, 9)]
    assert re.fullmatch(r"loss \d\.\d{3}, \d+ samples/s, \d+:\d\d left", told[0][2])


def test_without_a_compiler_a_run_that_wants_one_is_refused(whole, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler"):
        starting_model(replace(whole, options=replace(OPTIONS, compile=True)))


def test_a_data_set_without_folders_is_named(whole):
    with pytest.raises(ConfigError, match="tiny draws from words, for which data or prompts has nothing"):
        train(replace(whole, data={"shapes": whole.data["shapes"]}), 0, 1, quiet)


def test_a_mistake_on_the_command_line_is_one_message(whole, tmp_path, caplog):
    spec = replace(elsewhere(whole, tmp_path), init=tmp_path / "nothing")
    write_spec(spec, tmp_path / "RUN.json")
    assert main([str(tmp_path / "RUN.json")]) == 2
    assert "holds no checkpoint" in caplog.text


def test_a_checkpoint_of_another_model_is_one_message(whole, tmp_path, caplog):
    shutil.copytree(whole.out, tmp_path / "other")
    wide = {name: torch.cat([tensor, tensor]) for name, tensor in weights_of(whole).items()}
    save_file(wide, tmp_path / "other" / "trainable.safetensors")
    write_spec(replace(elsewhere(whole, tmp_path), init=tmp_path / "other"), tmp_path / "RUN.json")
    assert main([str(tmp_path / "RUN.json")]) == 2
    assert f"{tmp_path / 'other'} is of another model than {whole.backbones}: " in caplog.text


def test_a_gpu_that_is_not_there_is_one_message(whole, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "99")
    write_spec(replace(elsewhere(whole, tmp_path), options=replace(OPTIONS, device="cuda")), tmp_path / "RUN.json")
    assert main([str(tmp_path / "RUN.json")]) == 2
    assert "device is cuda, and a process here wants GPU 99" in caplog.text


@pytest.mark.parametrize("arguments", [[], ["RUN.json", "RUN.json"]])
def test_one_argument_is_wanted(caplog, arguments):
    assert main(arguments) == 2
    assert "one argument is wanted, the path of RUN.json" in caplog.text


def test_a_file_that_is_not_there_is_a_mistake_and_one_that_cannot_be_written_is_none(whole, tmp_path, caplog):
    assert main([str(tmp_path / "RUN.json")]) == 2
    write_spec(elsewhere(whole, tmp_path), tmp_path / "RUN.json")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert main([str(tmp_path / "RUN.json")], raising(full)) == 1
    assert "RUN.json" in caplog.text and "No space left on device" in caplog.text


def test_a_file_that_is_no_json_is_one_message(tmp_path, caplog):
    (tmp_path / "RUN.json").write_text("{")
    assert main([str(tmp_path / "RUN.json")]) == 2
    assert f"{tmp_path / 'RUN.json'} is no JSON" in caplog.text


def test_a_reading_process_that_was_killed_is_one_message(whole, tmp_path, caplog):
    write_spec(elsewhere(whole, tmp_path), tmp_path / "RUN.json")
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert main([str(tmp_path / "RUN.json")], raising(killed)) == 1
    assert "DataLoader worker (pid 7) is killed" in caplog.text and '"loader_workers": 0' in caplog.text
    caught = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nstack expects")
    with pytest.raises(RuntimeError, match="stack expects"):
        main([str(tmp_path / "RUN.json")], raising(caught))


def test_a_run_that_another_process_trains_is_refused(whole, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("tinygptv_core.alone.PATIENCE_SECONDS", 0.3)
    spec = elsewhere(whole, tmp_path)
    with alone(spec.work):
        write_spec(spec, tmp_path / "RUN.json")
        assert main([str(tmp_path / "RUN.json")]) == 2
    assert f"another process trains in {spec.work}" in caplog.text
    assert not spec.notes.exists()
    train(spec, 0, 1, quiet)


def test_where_a_file_system_has_no_locks_nothing_is_held(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with alone(tmp_path), alone(tmp_path):
        pass


def test_a_loss_that_is_no_number_ends_the_command_in_a_message(whole, tmp_path, caplog):
    wild = replace(whole.stage, schedule=replace(STAGE.schedule, start=1e30, peak=1e30, end=1e30))
    write_spec(replace(elsewhere(whole, tmp_path), stage=wild), tmp_path / "RUN.json")
    assert main([str(tmp_path / "RUN.json")]) == 1
    assert "the loss is nan at step 2 of tiny" in caplog.text
    assert "Traceback" not in caplog.text


def no_memory_of_a_cpu():
    """What torch raises where a tensor of 4 exabytes is wanted."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**18)
    return caught.value


def raising(error):
    def training(*_):
        raise error

    return training


def engine_whose_held_out_loss_is_no_number(steps: int):
    """It begins after so many passes of training."""

    def new_engine(model, stage, options, *, rank, world_size):
        passes = []

        def spoil(module, _inputs, output):
            passes.extend([1] * module.training)
            return output if module.training or len(passes) < steps else output * float("nan")

        model.get_submodule("llm.model.final_layernorm").register_forward_hook(spoil)
        return ddp_engine(model, stage, options, rank=rank, world_size=world_size)

    return new_engine


def test_a_held_out_loss_that_is_no_number_stops_before_the_first_step(whole, tmp_path):
    with pytest.raises(NotFiniteError, match=r"the loss is nan at the held-out samples of tiny; .*\.final_layernorm"):
        train(elsewhere(whole, tmp_path), 0, 1, quiet, new_engine=engine_whose_held_out_loss_is_no_number(0))
    assert not (tmp_path / "notes").exists()


def test_after_the_last_step_it_is_a_notice_beside_the_checkpoint(whole, tmp_path):
    spec = elsewhere(whole, tmp_path)
    train(spec, 0, 1, quiet, new_engine=engine_whose_held_out_loss_is_no_number(8))
    assert (spec.out / "trainable.safetensors").read_bytes() == (whole.out / "trainable.safetensors").read_bytes()
    assert summary_of(spec)["loss_last"] is None
    (notice,) = summary_of(spec)["notices"]
    assert notice.startswith("after the last step the loss is nan at the held-out samples of tiny; the first layer")


def test_an_operation_that_would_give_other_bits_each_time_is_told_of(whole, tmp_path, caplog):
    """torch's own refusal, by an operation that has no other way on a CPU either."""
    write_spec(elsewhere(whole, tmp_path), tmp_path / "RUN.json")

    def training(*_: object) -> None:
        be_deterministic()
        torch.ones(3).put_(torch.tensor([0, 0]), torch.ones(2))

    try:
        assert main([str(tmp_path / "RUN.json")], training) == 1
    finally:
        torch.use_deterministic_algorithms(False)
    assert "no way to compute a step to the same bits each time: put_" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), no_memory_of_a_cpu()])
def test_memory_that_cannot_be_had_ends_the_command_with_what_takes_less(whole, tmp_path, caplog, error):
    write_spec(elsewhere(whole, tmp_path), tmp_path / "RUN.json")
    assert main([str(tmp_path / "RUN.json")], raising(error)) == 1
    assert f"memory ran out: {error}" in caplog.text
    assert '"micro_batch": 1' in caplog.text
    with pytest.raises(RuntimeError, match="another"):
        main([str(tmp_path / "RUN.json")], raising(RuntimeError("another")))


def started(spec):
    """The same run in a process of its own."""
    write_spec(spec, spec.notes.parent / "RUN.json")
    command = [sys.executable, "-m", "tinygptv_core.train", spec.notes.parent / "RUN.json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def signalled(spec, number, after):
    """Begin or go on with `spec` in a process of its own, and signal it once `after` steps are done: status and words.

    The signal comes to the processes that read ahead too, as torchrun and service managers send it.
    """
    with started(spec) as process:
        tail = Tail(spec.notes / "metrics.jsonl")
        while not any(line["step"] >= after for line in tail.read()):
            assert process.poll() is None, process.communicate()[0][-4000:]
            time.sleep(0.002)
        os.killpg(process.pid, number)
        words, _ = process.communicate()
    return process.returncode, words


def test_a_run_that_was_killed_and_then_stopped_by_signals_has_the_curve_of_the_undisturbed_one(tmp_path):
    """Packed, mixed, in micro-batches, with dropout, read ahead by two processes; at random steps."""
    stage = replace(STAGE, schedule=replace(STAGE.schedule, steps=50))
    options = replace(OPTIONS, packed=True, micro_batch=2, save_every_steps=8)
    calm = tiny_spec(tmp_path, dropout=0.1, stage=stage, options=options)
    train(calm, 0, 1, quiet)
    (tmp_path / "again").mkdir()
    spec, chance = elsewhere(calm, tmp_path / "again"), random.Random(1)
    reading = replace(spec, options=replace(options, loader_workers=2))
    killed_after, stopped_after = chance.randrange(8, 16), chance.randrange(20, 26)

    status, _ = signalled(reading, signal.SIGKILL, killed_after)
    assert status == -signal.SIGKILL
    assert not (spec.notes / "summary.json").exists()
    status, words = signalled(reading, signal.SIGTERM, stopped_after)
    last = metrics_of(spec)[-1]["step"]
    assert stopped_after <= last < 50
    assert status == STOPPED == 143
    assert f"tiny was asked to stop. It is saved and goes on from step {last}, with the same command." in words
    assert "Traceback" not in words
    train(spec, 0, 1, quiet)
    assert summary_of(spec)["resumed_from_step"] == last
    assert [(line["step"], line["loss"], line["gradient_norm"]) for line in metrics_of(spec)] == [
        (line["step"], line["loss"], line["gradient_norm"]) for line in metrics_of(calm)
    ]
    assert (spec.out / "trainable.safetensors").read_bytes() == (calm.out / "trainable.safetensors").read_bytes()


def keys_of(spec, tokenizer, step, world_size):
    """The samples that the processes train on together at this step, in the order of their ranks."""
    parts = [Steps(spec, tokenizer, rank=rank, world_size=world_size)[step] for rank in range(world_size)]
    return [key for part in parts if bool((part.labels_BT != IGNORED).any()) for key in part.keys]


def test_the_order_of_samples_is_the_same_on_any_number_of_processes(whole):
    """Batches of 5 and 3; of 3 a fourth process has none."""
    tokenizer = starting_model(whole)[1]
    order = [keys_of(whole, tokenizer, step, 1) for step in range(8)]
    assert {len(keys) for keys in order} == {5, 3}
    assert len({tuple(keys) for keys in order}) == 8
    for world_size in (2, 3, 4):
        assert [keys_of(whole, tokenizer, step, world_size) for step in range(8)] == order


def torchrun(spec, world_size):
    """The command of a bare machine, on loopback alone; it must end well."""
    write_spec(spec, spec.notes.parent / "RUN.json")
    launcher = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", world_size]
    command = [sys.executable, "-m", *map(str, launcher), "-m", "tinygptv_core.train", spec.notes.parent / "RUN.json"]
    done = subprocess.run(command, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def test_two_processes_equal_one_and_go_on_where_one_has_stopped(tmp_path):
    """Batches of 5 and 3 fall unevenly on two; without dropout both ways do the same steps, recomputed or not."""
    one = tiny_spec(tmp_path, options=replace(OPTIONS, micro_batch=2))
    two = replace(elsewhere(one, tmp_path / "two"), options=replace(one.options, gradient_checkpointing=True))
    (tmp_path / "two").mkdir()
    train(one, 0, 1, quiet)
    with pytest.raises(StoppedError):
        train(two, 0, 1, quiet, StopAfter(2))
    torchrun(two, 2)
    assert (summary_of(two)["world_size"], summary_of(two)["resumed_from_step"]) == (2, 2)
    assert [loss for _, loss in losses_of(two)] == pytest.approx([loss for _, loss in losses_of(one)], abs=1e-5)
    # What all processes did together: the same positions in another time.
    assert tokens_of(two) == pytest.approx(tokens_of(one))
    single, double = weights_of(one), weights_of(two)
    assert max(float((single[name] - double[name]).abs().max()) for name in single) < 1e-5


def test_an_engine_that_the_core_does_not_have_is_told(whole, tmp_path, caplog):
    spec = replace(elsewhere(whole, tmp_path), options=replace(OPTIONS, engine="zero2"))
    write_spec(spec, tmp_path / "RUN.json")
    assert main([str(tmp_path / "RUN.json")]) == 2
    assert "engine is zero2, which is DeepSpeed's and not of the core" in caplog.text
    assert "torchrun -m tasks.zero RUN.json" in caplog.text
