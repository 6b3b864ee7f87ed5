import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.engines import together
from tasks.training.zero_pieces import Pieces
from tasks.zero import train
from tests.core.test_features import written_features
from tests.core.test_train import losses_of, metrics_of, quiet, summary_of, weights_of
from tests.core.tiny_run import STAGE, elsewhere, shape_samples, tiny_spec, word_samples, write_dataset
from tests.tasks.test_train import Watch
from tests.tasks.zero_runs import WORLD_SIZE
from tinygptv_core.run import write_spec

LEVELS = ("zero1", "zero2", "zero3")
ENGINES = ("ddp", *LEVELS)
TOLERANCE = 1e-6
"""Between engines, in float32: they sum in other orders."""


class Runs:
    """What two processes train, one after another, by name."""

    def __init__(self, folder, plain):
        self.folder, self.plain, self.specs, self.begun = folder, plain, {}, {}
        self.watch = Watch()

    def add(self, name, spec=None, begun=None, **options):
        """A run like the plain one, with other options; `begun` is the folder of states that it goes on from."""
        spec = elsewhere(spec or self.plain, self.folder / name)
        self.specs[name] = replace(spec, options=replace(spec.options, **options))
        self.begun[name] = begun and str(begun)

    def work(self, name):
        return self.specs[name].work

    def train(self):
        listed = []
        for name, spec in self.specs.items():
            (self.folder / name).mkdir()
            if str(spec.work) not in self.begun.values():  # nobody goes on from its states
                spec = replace(spec, options=replace(spec.options, save_every_steps=99))
            write_spec(spec, self.folder / name / "RUN.json")
            listed.append([str(self.folder / name / "RUN.json"), self.begun[name]])
        (self.folder / "runs.json").write_text(json.dumps(listed))
        self.watch.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(self.folder / "home"))
            together("tests.tasks.zero_runs", self.folder, WORLD_SIZE)
        self.watch.done.set()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The plain run in this process: float32, without dropout."""
    spec = tiny_spec(tmp_path_factory.mktemp("one"))
    train(spec, 0, 1, quiet)
    return spec


@pytest.fixture(scope="module")
def mixed(one, tmp_path_factory):
    """The same of pictures and text alone in one data set, three a batch, so that one of two may have no pictures."""
    folder = tmp_path_factory.mktemp("mixed")
    samples = [*shape_samples(8), *({**sample, "key": f"1{sample['key'][1:]}"} for sample in word_samples(8))]
    stage = replace(one.stage, mix={"words": replace(STAGE.mix["words"], batch=3)})
    spec = replace(one, stage=stage, data={"words": write_dataset(folder / "data", samples, per_shard=4)})
    spec = elsewhere(spec, folder)
    train(spec, 0, 1, quiet)
    return spec


@pytest.fixture(scope="module")
def runs(one, mixed, tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("two"), one)
    for engine in ENGINES:
        runs.add(engine, engine=engine)
    for engine in LEVELS:
        runs.add(f"{engine}-resumed", begun=runs.work(engine), engine=engine)
    small = {"micro_batch": 1, "packed": True, "gradient_checkpointing": True}
    runs.add("one-to-small-zero3", begun=one.work, engine="zero3", **small)
    runs.add("small-zero2", engine="zero2", micro_batch=1)
    runs.add("ddp-to-zero2", begun=runs.work("ddp"), engine="zero2")
    runs.add("zero2-to-ddp", begun=runs.work("zero2"), engine="ddp")
    for precision, engine in (("bfloat16", "zero3"), ("float16", "zero2")):
        rough = replace(one, stage=replace(STAGE, precision=precision))
        runs.add(f"{precision}-ddp", rough)
        runs.add(f"{precision}-{engine}", rough, engine=engine)
    slow = replace(one, stage=replace(STAGE, published_accumulation=2))
    for engine in ("ddp", "zero3"):
        runs.add(f"slow-{engine}", slow, engine=engine)
    for begun, engine in (("zero3", "ddp"), ("ddp", "zero1"), ("zero3", "zero3")):
        runs.add(f"slow-{begun}-to-{engine}", slow, begun=runs.work(f"slow-{begun}"), engine=engine)
    for engine in ("zero1", "zero3"):
        runs.add(f"mixed-{engine}", mixed, engine=engine)
    written_features(mixed, runs.folder / "features", names=("words",))
    runs.add("mixed-kept", replace(mixed, features=runs.folder / "features"), engine="zero2")
    wild = replace(STAGE.schedule, start=1e30, peak=1e30, end=1e30)
    runs.add("wild", replace(one, stage=replace(one.stage, schedule=wild)), engine="zero3")
    runs.train()
    return runs


def largest_difference(one, other):
    """The largest difference of a weight."""
    weights, others = weights_of(one), weights_of(other)
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def bytes_of(spec):
    return [(spec.out / name).read_bytes() for name in ("trainable.safetensors", "stage.json")]


def assert_near(spec, other, tolerance=TOLERANCE):
    """The same steps, as far as they were done, and the same weights, but for rounding."""
    done = len(metrics_of(spec))
    for kind in ("loss", "gradient_norm"):
        found, wanted = ([line[kind] for line in metrics_of(run)[-done:]] for run in (spec, other))
        known = [place for place, value in enumerate(wanted) if value is not None]
        assert known == [place for place, value in enumerate(found) if value is not None]
        near = pytest.approx([wanted[place] for place in known], abs=tolerance, rel=10 * tolerance)
        assert [found[place] for place in known] == near
    assert largest_difference(spec, other) < tolerance
    assert summary_of(spec)["loss_last"] == pytest.approx(summary_of(other)["loss_last"], abs=tolerance)


@pytest.mark.parametrize("name", [*ENGINES, "small-zero2"])
def test_every_engine_trains_to_the_weights_of_one_process(runs, one, name):
    """Batches of 5 and 3 fall unevenly on two; of text alone the projections are left as they are, moments too."""
    assert_near(runs.specs[name], one)
    assert summary_of(runs.specs[name])["world_size"] == WORLD_SIZE


@pytest.mark.parametrize(("name", "tolerance"), [("zero1", TOLERANCE), ("zero3", TOLERANCE), ("kept", 1e-5)])
def test_one_process_may_be_without_pictures_where_the_other_has_some(runs, mixed, name, tolerance):
    """Or without vision tokens where these are kept."""
    assert_near(runs.specs[f"mixed-{name}"], mixed, tolerance)


@pytest.mark.parametrize("engine", LEVELS)
def test_a_killed_run_goes_on_to_the_same_bits(runs, engine):
    resumed = runs.specs[f"{engine}-resumed"]
    assert summary_of(resumed)["resumed_from_step"] == 3
    assert bytes_of(resumed) == bytes_of(runs.specs[engine])
    assert losses_of(resumed) == losses_of(runs.specs[engine])[3:]


@pytest.mark.parametrize("name", ["ddp-to-zero2", "zero2-to-ddp", "one-to-small-zero3"])
def test_a_run_goes_on_under_another_engine_or_more_processes(runs, one, name):
    """And in micro-batches, packed, with layers computed again."""
    assert summary_of(runs.specs[name])["resumed_from_step"] == 3
    assert_near(runs.specs[name], one)


def test_a_run_of_two_processes_goes_on_in_one(runs, one, tmp_path):
    spec = elsewhere(one, tmp_path)
    spec.work.mkdir()
    shutil.copy(next(runs.work("zero3").glob("state-000000003-*")), spec.work)
    train(spec, 0, 1, quiet)
    assert summary_of(spec)["resumed_from_step"] == 3
    assert_near(spec, one)


@pytest.mark.parametrize("name", ["bfloat16-zero3", "float16-zero2"])
def test_in_16_bit_a_step_is_that_of_ddp_with_dropout_and_the_scale_of_the_loss(runs, name):
    ddp = runs.specs[f"{name.partition('-')[0]}-ddp"]
    assert_near(runs.specs[name], ddp, tolerance=1e-5)
    skipped = [line["gradient_norm"] is None for line in metrics_of(ddp)]
    assert any(skipped) == name.startswith("float16")
    assert not all(skipped)


def test_the_published_accumulation_is_that_of_ddp_and_goes_on_between_its_steps(runs):
    """The state after step 3 has the gradients of that step, which are stepped with after step 4."""
    ddp = runs.specs["slow-ddp"]
    for name in ("slow-zero3", "slow-zero3-to-ddp", "slow-ddp-to-zero1", "slow-zero3-to-zero3"):
        assert_near(runs.specs[name], ddp)
    assert bytes_of(runs.specs["slow-zero3-to-zero3"]) == bytes_of(runs.specs["slow-zero3"])


def test_a_loss_that_is_no_number_stops_every_process_and_names_the_layer(runs):
    told = [(runs.folder / "wild" / f"error-{rank}.txt").read_text() for rank in range(WORLD_SIZE)]
    assert all("the loss is nan at step 2 of tiny, on " in text for text in told)
    assert all("the first layer to give such a number is projections.llama_proj2" in text for text in told)
    assert told[0] == told[1]
    assert len(metrics_of(runs.specs["wild"])) == 1
    assert not runs.specs["wild"].out.exists()


@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_a_held_out_loss_that_is_no_number_stops_every_process_and_names_the_layer(runs, engine):
    for rank in range(WORLD_SIZE):
        text = (runs.folder / engine / f"held-out-{rank}.txt").read_text()
        assert "the loss is nan at the held-out samples of tiny; " in text
        assert "the first layer to give such a number is llm.model.layers.0.input_layernorm." in text


@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3", "slow-zero3"])
def test_a_gradient_that_is_no_number_stops_before_the_optimizer_and_is_named(runs, engine):
    """Both processes stop, though only one of them found it; the state is the one before (`zero_runs.py`).

    So they do in a step that the optimizer would not be stepped after.
    """
    for rank in range(WORLD_SIZE):
        text = (runs.folder / engine / f"infinite-{rank}.txt").read_text()
        assert "the gradients of 5 of 13 tensors are not finite at step 1 of tiny, on shapes" in text
        assert "on the way back first: llm.model.layers.0.input_layernorm.weight, projections.llama_proj2." in text
        named = "the first came to the output of llm.model.layers.0.input_layernorm;"
        assert (named in text) == (not engine.endswith("zero3"))


def test_processes_that_see_different_folders_of_states_are_refused(runs):
    """The first found the one after step 6, the other none."""
    for rank in range(WORLD_SIZE):
        text = (runs.folder / "ddp" / f"apart-{rank}.txt").read_text()
        assert text.startswith("the processes found states of different steps in ")
        assert text.endswith(": 6, 0. It must be one folder that all machines see.")


def test_the_state_of_parameters_of_one_kind_that_were_not_stepped_together_is_refused():
    kinds = SimpleNamespace(_groups=[["a"], ["b", "c"]])
    stepped = {"step/a": torch.tensor(2.0), "step/b": torch.tensor(3.0), "step/c": torch.tensor(3.0)}
    assert Pieces._steps_in(kinds, stepped) == [2, 3]
    with pytest.raises(ValueError, match=r"of one kind that were stepped .*\{0\.0, 3\.0\}|\{3\.0, 0\.0\}"):
        Pieces._steps_in(kinds, {"step/a": torch.tensor(2.0), "step/b": torch.tensor(3.0)})


def test_nothing_left_loopback_nor_was_written_to_the_users_home(runs):
    assert runs.watch.num_seen > 0
    assert runs.watch.strangers == set()
    assert not Path(runs.folder, "home").exists()


def test_ddp_is_had_without_deepspeed(one, tmp_path, monkeypatch):
    """Its import takes seconds."""
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # whoever imports it gets an ImportError
    train(elsewhere(one, tmp_path), 0, 1, quiet)
