"""What a stage would take, before it begins."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tasks.build import Store
from tasks.training_estimates import NO_TIME, by_arithmetic, disk_bytes, estimate_training, samples_of
from tasks.training_probe import probe, samples_per_second, shortened
from tests.core.tiny_run import OPTIONS, STAGE, tiny_spec
from tinygptv_core.artifact import Artifact
from tinygptv_core.model import TinyGPTV
from tinygptv_core.parameters import sizes_in
from tinygptv_core.plain import ConfigError, plain
from tinygptv_core.precision import dtype_of
from tinygptv_core.settings import SHIPPED
from tinygptv_core.sizes import PAPER_SIZES
from tinygptv_core.stage import Share
from tinygptv_core.stages import NANO_STAGE1, NANO_STAGE2, PAPER_STAGE1
from tinygptv_core.train import train
from tinygptv_core.weights import load_backbones

SIZES = sizes_in(SHIPPED / "nano")
BACKBONES = Artifact(kind="backbones", digest="b" * 64, path=Path("backbones"))
SUMMARY = {"seconds": 55.0, "samples_per_second": 64.0, "peak_memory_bytes": 1_000_000_000}
TWICE = replace(NANO_STAGE1, schedule=replace(NANO_STAGE1.schedule, steps=220))


def note_run(store, key, *, stage=NANO_STAGE1, speed=64.0, backbones=BACKBONES, time=1.0, features=None, **options):
    """What an earlier build of `stage` left: 64 samples a second, and a gigabyte."""
    record = {
        "name": f"{stage.name}/train",
        "step": "train",
        "version": 1,
        "config": {"stage": plain(stage, identity=True)},
        "inputs": {"backbones": backbones.digest},
        "digest": "d" * 64,
        "others": [],
        "noted": {"time": time},
    }
    for path, value in (
        (store.root / "keys" / "train" / f"{key}.json", record),
        (store.notes(key) / "summary.json", {**SUMMARY, "samples_per_second": speed}),
        (store.notes(key) / "RUN.json", {"options": plain(replace(OPTIONS, **options)), "features": features}),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))


def estimate(store, stage=NANO_STAGE1, aided=False, **options):
    return estimate_training(stage, SIZES, BACKBONES, replace(OPTIONS, **options), store, aided=aided)


def seconds_of(store, stage=NANO_STAGE1, **options):
    return estimate(store, stage, **options).seconds


def test_without_a_run_it_says_what_the_weights_take():
    """(985,952,256 + 105,162,240 + 2,779,776,000 - 171,520) x 2 bytes, and 16 for 13,809,664 that are trained."""
    taken = by_arithmetic(PAPER_STAGE1, PAPER_SIZES, OPTIONS, NO_TIME)
    assert (taken.seconds, taken.memory_bytes, taken.by) == (None, 7_962_392_576, "arithmetic")
    # A checkpoint, and three states of three values.
    assert taken.disk_bytes == 13_809_664 * 4 * 10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_the_weights_take_is_no_more_than_what_a_loaded_model_has(precision):
    """The same in float32; in 16 bits norms and the like are in float32, too: less than a hundredth here."""
    stage = replace(NANO_STAGE2, precision=precision)
    backbones = load_backbones(SHIPPED / "nano", dtype_of(precision))
    model = TinyGPTV.from_backbones(backbones, stage.lora, seed=1)
    held = sum(parameter.nbytes * (4 if parameter.requires_grad else 1) for parameter in model.parameters())
    told = by_arithmetic(stage, SIZES, OPTIONS, NO_TIME).memory_bytes
    assert 0.99 * held < told <= held


@pytest.mark.parametrize(
    ("engine", "values"), [("ddp", 4), ("zero1", 2.5), ("zero2", 1.75), ("zero3", 1)], ids=lambda value: str(value)
)
def test_what_zero_divides_is_not_said_to_be_in_every_process(engine, values):
    taken = by_arithmetic(PAPER_STAGE1, PAPER_SIZES, replace(OPTIONS, engine=engine, processes=4), NO_TIME)
    assert taken.memory_bytes == 7_962_392_576 - 13_809_664 * 4 * (4 - values)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_checkpoint_and_states_take_what_the_plan_says(tmp_path, accumulation):
    """Two are kept and one is written; after three steps of which two are added up one gradient waits for its turn."""
    tiny = tiny_spec(tmp_path)
    spec = replace(tiny, stage=replace(tiny.stage, published_accumulation=accumulation))
    train(spec, 0, 1, lambda done, total, text: None)
    states = [num_bytes(path) for path in spec.work.glob("state-*.safetensors")]
    assert len(states) == spec.options.keep_states
    told = disk_bytes(spec.stage, sizes_in(spec.backbones), spec.options)
    assert told == num_bytes(spec.out / "trainable.safetensors") + 3 * max(states)


def num_bytes(path):
    """Of a file's tensors, but for each one's count of steps."""
    return sum(tensor.nbytes for name, tensor in load_file(path).items() if not name.startswith("step/"))


def test_the_last_run_says_how_long_as_many_samples_take(tmp_path):
    """110 steps of 32 are 3,520 samples, 220 are 7,040: at 64 a second."""
    store = Store(tmp_path)
    note_run(store, "first")
    taken = estimate(store, TWICE)
    assert (taken.seconds, taken.memory_bytes, taken.by, taken.note) == (110.0, 1_000_000_000, "last run", "")


def test_the_run_that_is_most_like_it_speaks_and_of_equals_the_newest(tmp_path):
    store = Store(tmp_path)
    note_run(store, "alike", stage=TWICE, speed=10.0, time=1.0)
    note_run(store, "newer", stage=NANO_STAGE1, speed=20.0, time=2.0)
    assert seconds_of(store, TWICE) == 704.0
    note_run(store, "newest", stage=TWICE, speed=40.0, time=3.0)
    assert seconds_of(store, TWICE) == 176.0


@pytest.mark.parametrize(
    "other",
    [
        {"backbones": replace(BACKBONES, digest="c" * 64)},
        {"device": "cuda"},
        {"stage": replace(NANO_STAGE1, image_size=128)},
        {"stage": replace(NANO_STAGE1, name="stage2")},
    ],
    ids=["backbones", "device", "size", "stage"],
)
def test_a_run_that_says_nothing_about_it_is_passed_over(tmp_path, other):
    store = Store(tmp_path)
    note_run(store, "other", **other)
    assert seconds_of(store) is None


@pytest.mark.parametrize(
    ("had", "note"),
    [
        ({"processes": 2}, "processes 2, now 1"),
        ({"threads": 2, "micro_batch": 32}, "threads 2, now 1; micro_batch 32, now null"),
        ({"engine": "zero3", "packed": True}, "packed true, now false; engine zero3, now ddp"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing true, now false"),
        ({"compile": True, "stop_seconds": 5}, "compile true, now false"),
        ({"features": "features"}, "kept vision tokens true, now false"),
        ({"stage": replace(NANO_STAGE1, precision="bfloat16")}, "precision bfloat16, now float32"),
        ({"stage": replace(NANO_STAGE1, max_tokens=7)}, f"max_tokens 7, now {NANO_STAGE1.max_tokens}"),
        ({"keep_states": 9, "micro_batch": 8}, "micro_batch 8, now null"),
    ],
)
def test_a_run_under_other_conditions_says_so(tmp_path, had, note):
    store = Store(tmp_path)
    note_run(store, "other", **had)
    assert estimate(store).note == f"measured with {note}"


def test_a_run_under_the_same_conditions_comes_before_newer_ones(tmp_path):
    store = Store(tmp_path)
    note_run(store, "kept", speed=640.0, features="features", time=1.0)
    note_run(store, "looked", speed=64.0, time=2.0)
    note_run(store, "few at once", speed=32.0, micro_batch=1, time=3.0)
    assert (seconds_of(store, aided=True), seconds_of(store), seconds_of(store, micro_batch=1)) == (5.5, 55.0, 110.0)
    assert {estimate(store, **asked).note for asked in ({"aided": True}, {}, {"micro_batch": 1})} == {""}


@pytest.mark.parametrize("name", ["summary.json", "RUN.json"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seconds": 1'])
def test_what_a_training_told_that_is_damaged_is_one_message_with_its_path(tmp_path, name, text):
    store = Store(tmp_path)
    note_run(store, "run")
    path = store.notes("run") / name
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=rf"^{path} is damaged: .*\n  rm {path}  lets plans and reports do without it$"
    ):
        estimate(store)
    path.unlink()
    assert seconds_of(store) is None


def test_a_mix_draws_by_its_weights():
    """Three of four batches have 10 samples, one has 2: 8 on average."""
    mixed = replace(NANO_STAGE1, mix={"a": Share(weight=3, batch=10), "b": Share(weight=1, batch=2)})
    assert samples_of(mixed) == 110 * 8


def test_the_steps_that_warm_up_do_not_count():
    """Five slow steps of 10 s, then five of 1 s with 8 samples each."""
    slow = [{"seconds": 10.0 * n, "samples_per_second": 0.8} for n in range(1, 6)]
    fast = [{"seconds": 50.0 + n, "samples_per_second": 8.0} for n in range(1, 6)]
    assert samples_per_second([*slow, *fast]) == pytest.approx(8.0)
    assert samples_per_second(slow[:2]) == pytest.approx(0.8)
    assert samples_per_second(slow[:1]) == 0.8


def test_a_probe_has_twenty_steps_or_all_there_are():
    assert (shortened(PAPER_STAGE1).schedule.steps, shortened(PAPER_STAGE1).schedule.warmup_steps) == (20, 0)
    assert shortened(tiny_stage(5)).schedule.steps == 5
    assert shortened(replace(PAPER_STAGE1, published_accumulation=50)).published_accumulation == 20


def tiny_stage(steps):
    return replace(NANO_STAGE1, schedule=replace(NANO_STAGE1.schedule, steps=steps, warmup_steps=0))


def test_a_probe_trains_on_the_real_data_and_leaves_nothing(tmp_path):
    many = replace(STAGE, schedule=replace(STAGE.schedule, steps=10**7))
    tiny, used = tiny_spec(tmp_path, stage=many), []

    def spec_of(folders):
        used.append(folders)
        return replace(tiny, out=folders.out, work=folders.scratch, notes=folders.notes)

    taken = probe(spec_of, aided=True)
    assert (taken.by, taken.note) == ("probe", "at most, for no vision tokens are kept yet")
    # Of all steps, at no more than a thousand a second; the probe's own are over in one.
    assert taken.seconds is not None and taken.seconds > 10_000 and taken.memory_bytes > 10_000_000
    assert not used[0].out.parent.exists() and not (tmp_path / "notes").exists()


def test_a_probe_that_fails_says_why(tmp_path):
    tiny = tiny_spec(tmp_path)
    gone = replace(tiny, init=tmp_path / "nothing")
    taken = probe(
        lambda folders: replace(gone, out=folders.out, work=folders.scratch, notes=folders.notes), aided=False
    )
    assert (taken.seconds, taken.by) == (None, "arithmetic")
    assert "the probe failed" in taken.note and "holds no checkpoint" in taken.note


def fails_of(tiny, **options):
    tiny = replace(tiny, options=replace(tiny.options, **options))
    taken = probe(lambda at: replace(tiny, out=at.out, work=at.scratch, notes=at.notes), aided=False)
    return taken.note.removeprefix("no time is known, for the probe failed: ")


def test_a_probe_of_several_processes_that_is_refused_says_why_and_not_how_torchrun_ended(tmp_path):
    nothing = tmp_path / "nothing"
    found = fails_of(replace(tiny_spec(tmp_path), init=nothing), processes=2)
    assert found == f"{nothing} holds no checkpoint: there is no stage.json"


def test_a_probe_that_takes_too_long_is_ended_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.training_probe.LONGEST_SECONDS", 0.1)
    assert fails_of(tiny_spec(tmp_path)) == "it had not ended after 0 s"


def test_a_probe_of_deepspeeds_engines_takes_its_command(tmp_path, monkeypatch):
    """Here without the package, whose import takes seconds."""
    (tmp_path / "deepspeed.py").write_text("raise ModuleNotFoundError('gone', name='deepspeed')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = fails_of(tiny_spec(tmp_path / "tiny"), engine="zero2")
    assert found.startswith("the ZeRO engines are DeepSpeed's, which is not installed")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_probe_that_the_system_killed_says_so(tmp_path, monkeypatch, processes):
    """Here as soon as it starts."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if os.environ.get('RANK', '0') == '0' and any('RUN.json' in text for text in sys.orig_argv) "
        "and 'torch.distributed.run' not in sys.orig_argv:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = fails_of(tiny_spec(tmp_path / "tiny"), processes=processes)
    assert found == "a process of it was killed, most likely because memory ran out"
