import ipaddress
import os
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from safetensors.torch import load_file

from tasks.tars import Sharing, over_tars
from tasks.train import TrainingError, Workers, _following, ray_workers
from tasks.training.cluster import ray_cluster
from tests.core.test_train import losses_of, quiet, summary_of, torchrun
from tests.core.tiny_run import OPTIONS, STAGE, elsewhere, tiny_spec
from tinygptv_core.plain import ConfigError
from tinygptv_core.train import train
from tinygptv_core.training.metrics import MetricsFile

STEPS = 300
LONG = replace(STAGE, schedule=replace(STAGE.schedule, steps=STEPS))
TWO = replace(OPTIONS, processes=2, save_every_steps=40, log_every_steps=20)
WATCH_SECONDS = 0.5


class Watch(threading.Thread):
    """Looks for connections of this process and those below it that lead beyond loopback."""

    def __init__(self):
        super().__init__(daemon=True)
        self.strangers: set[str] = set()
        self.num_seen = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(WATCH_SECONDS):
            reached = [address for table in ("tcp", "tcp6", "udp", "udp6") for address in remote_addresses(table)]
            self.num_seen += len(reached)
            if not all(is_near(address) for address in reached):  # someone's; seldom, since asking whose takes long
                for process in processes():
                    self.look(process)

    def look(self, process: psutil.Process) -> None:
        try:
            reached = {connection.raddr.ip for connection in process.net_connections("inet") if connection.raddr}
        except psutil.Error:
            return
        self.strangers |= {f"{address} by {command(process)}" for address in reached if not is_near(address)}


def remote_addresses(table: str) -> list[str]:
    """The other ends of all connections of the machine."""
    found = []
    for line in Path("/proc/net", table).read_text().splitlines()[1:]:
        words = bytes.fromhex(line.split()[2].partition(":")[0])
        swapped = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
        found.append(str(ipaddress.ip_address(swapped)))
    return found


def is_near(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None) or found
    return mapped.is_loopback or mapped.is_unspecified


def processes() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def watch():
    watch = Watch()
    watch.start()
    yield watch
    watch.done.set()
    watch.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory, watch):
    """The home of a cluster that runs for as long as this file's tests, in a process that knew Ray already."""
    import ray  # noqa: F401

    home, before = tmp_path_factory.mktemp("home"), signal.getsignal(signal.SIGTERM)
    with ray_cluster(home, None):
        assert signal.getsignal(signal.SIGTERM) == before  # Ray's would end the process with nothing saved
        yield home


@pytest.fixture(scope="module")
def workers(home):
    """One group for all tests, which may die as often as these let it: killed, stopped, refused, killed for good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.train.MAX_RESTARTS", 3)
        with ray_workers(home, TWO) as workers:
            yield workers


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The same run on two processes without Ray."""
    spec = tiny_spec(tmp_path_factory.mktemp("bare"), dropout=0.1, stage=LONG, options=TWO)
    torchrun(spec, 2)
    return spec


def test_a_worker_that_is_killed_goes_on_to_the_bits_of_a_run_without_ray(workers, bare, tmp_path):
    spec, killed, told = elsewhere(bare, tmp_path), [], []

    def kill_once(done: int, total: int, text: str) -> None:
        told.append((done, total))
        found = training_processes()
        if 60 <= done < total and not killed and len(found) == 2:
            killed.append(found[1].pid)
            os.kill(found[1].pid, signal.SIGKILL)

    workers.train(spec, kill_once)
    assert len(killed) == 1
    assert told[-1] == (STEPS, STEPS)
    summary = summary_of(spec)
    assert (summary["world_size"], summary["steps"]) == (2, STEPS)
    assert summary["resumed_from_step"] in range(40, STEPS, 40)
    assert_same_training(spec, bare)
    assert load_file(spec.out / "trainable.safetensors")


def test_the_same_processes_train_the_next_run_to_the_same_bits(workers, bare, tmp_path):
    before = training_processes()
    groups = {os.getpgid(process.pid) for process in before}
    assert os.getpgid(0) not in groups  # a signal to ours (Ctrl-C, Prefect's Cancel) lets them save
    spec = elsewhere(bare, tmp_path)
    workers.train(spec, quiet)
    assert [process.pid for process in training_processes()] == [process.pid for process in before]
    assert_same_training(spec, bare)


def test_an_interrupted_run_stops_on_all_workers_and_goes_on_with_no_step_lost(workers, bare, tmp_path, monkeypatch):
    """First a worker is sent SIGTERM, and Ray starts all again; then whoever waits for them is interrupted."""
    monkeypatch.setattr("tasks.train.FOLLOW_SECONDS", 0.02)
    spec, signalled = elsewhere(bare, tmp_path), []
    one = training_processes()[1].pid  # beforehand: on a busy machine it takes as long as a hundred steps to find it

    def signal_twice(done: int, total: int, text: str) -> None:
        stops = stops_of(spec)
        if not signalled and done >= 60:
            signalled.append(one)
            os.kill(signalled[0], signal.SIGTERM)
        elif len(signalled) == 1 and stops and done > stops[0]:
            signalled.append(os.getpid())
            os.kill(signalled[1], signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        workers.train(spec, signal_twice)
    first, second = stops_of(spec)
    assert 60 < first < second < STEPS
    told = []
    workers.train(spec, lambda done, total, text: told.append(done))
    assert summary_of(spec)["resumed_from_step"] == second
    assert min(told) > second  # what is left is reckoned from the steps of this run alone
    assert_same_training(spec, bare)


def stops_of(spec) -> list[int]:
    """After which steps the run was stopped, as its first worker has told."""
    log = spec.notes / "worker-0.log"
    return [int(step) for step in re.findall(r"goes on from step (\d+)", log.read_text())] if log.exists() else []


def test_they_train_with_zero_to_the_weights_of_one_process(workers, tmp_path):
    one = tiny_spec(tmp_path / "one")
    train(one, 0, 1, quiet)
    spec = replace(elsewhere(one, tmp_path / "two"), options=replace(TWO, engine="zero2", log_every_steps=1))
    workers.train(spec, quiet)
    assert summary_of(spec)["world_size"] == 2
    assert [loss for _, loss in losses_of(spec)] == pytest.approx([loss for _, loss in losses_of(one)], abs=1e-6)
    found, wanted = (load_file(run.out / "trainable.safetensors") for run in (spec, one))
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < 1e-6


def test_a_mistake_of_the_users_is_told_as_one(workers, bare, tmp_path):
    spec = replace(elsewhere(bare, tmp_path), init=tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"nothing holds no checkpoint: there is no stage\.json"):
        workers.train(spec, quiet)
    # Whichever of them answers first has written down how it came to that.
    assert any("Traceback" in log.read_text() for log in spec.notes.glob("worker-*.log"))


def test_after_a_mistake_they_train_on_and_those_that_keep_dying_are_given_up(workers, bare, tmp_path):
    spec = elsewhere(bare, tmp_path)

    def kill(done: int, total: int, text: str) -> None:
        for process in training_processes():
            process.kill()

    with pytest.raises(TrainingError, match=r"(?s)tiny failed: .*memory.*--option micro_batch=1.*messages are in"):
        workers.train(spec, kill)
    assert not (spec.out / "trainable.safetensors").exists()


def test_what_workers_do_and_warn_of_is_told_while_they_do_it_and_not_what_a_killed_run_did(tmp_path, caplog):
    def line(step, *warnings):
        return {"step": step, "loss": 2.0, "samples_per_second": 64.0, "warnings": warnings}

    told, metrics = [], MetricsFile(tmp_path / "metrics.jsonl", after_step=0)
    metrics.write(line(1, "of the killed run"))
    with _following(SimpleNamespace(notes=tmp_path, stage=LONG), lambda *one: told.append(one)):
        metrics.write(line(2, "the loss leapt"))
    assert told == [(2, STEPS, "loss 2.000, 64 samples/s")]
    assert [record.message for record in caplog.records] == ["tiny: the loss leapt"]


def test_more_gpus_than_there_are_is_told(home, tmp_path):
    with pytest.raises(ConfigError, match="99 training processes want a GPU each; Ray's cluster has"):
        Workers(tmp_path / "workers", replace(TWO, processes=99, device="cuda"))


def test_work_over_tars_on_ray_gives_what_this_process_makes_of_them_in_their_order(home, tmp_path):
    tars = []
    for number, size in enumerate((30, 10, 20)):
        tars.append(tmp_path / f"{number}.tar")
        tars[-1].write_bytes(bytes(size))
    asked = []
    on_ray = Sharing(processes=1, least_bytes=0, ray=lambda: asked.append("connected"))
    assert list(over_tars(os.path.getsize, tars, on_ray)) == [30, 10, 20]
    assert asked == ["connected"]


@pytest.mark.parametrize("has_failed", [True, False], ids=["after a failure", "while they start"])
def test_nobody_asks_ray_for_workers_that_were_let_go(home, bare, tmp_path, monkeypatch, has_failed):
    """Ray, which after a failure starts them all again, would end this process if it were shut down meanwhile."""
    monkeypatch.setattr("tasks.train.END_SECONDS", 0.0)
    before = set(threading.enumerate())
    workers = Workers(tmp_path / "workers", replace(TWO, processes=1))
    if has_failed:
        with pytest.raises(ConfigError, match="holds no checkpoint"):
            workers.train(replace(elsewhere(bare, tmp_path), init=tmp_path / "nothing"), quiet)
    workers.end()
    assert set(threading.enumerate()) <= before


def test_nothing_has_left_loopback_nor_written_to_the_users_home(home, watch):
    assert watch.num_seen > 0
    assert watch.strangers == set()
    assert os.environ["HOME"] != str(home / "ray")
    left = {path.name for path in Path(home, "ray").iterdir() if not path.name.startswith("workers-")}
    assert left == {"ray_bootstrap_config.yaml"}


def training_processes() -> list[psutil.Process]:
    return [process for process in processes() if "RayTrainWorker" in command(process)]


def assert_same_training(spec, bare) -> None:
    for name in ("trainable.safetensors", "stage.json"):
        assert (spec.out / name).read_bytes() == (bare.out / name).read_bytes()
    assert losses_of(spec) == losses_of(bare)
