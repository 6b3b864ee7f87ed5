"""Steps that the host does not wait for: as on a GPU, and on one where there is one."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmarks.memory import fill_with_zeros
from tests.core import tiny
from tests.core.test_packing import ragged
from tests.core.tiny_run import OPTIONS, STAGE
from tinygptv_core.batch import IGNORED
from tinygptv_core.model import TinyGPTV
from tinygptv_core.precision import dtype_of
from tinygptv_core.stage import Lora
from tinygptv_core.training.clock import PARTS
from tinygptv_core.training.ddp import DDPEngine
from tinygptv_core.training.not_finite import NotFiniteError

LORA = Lora(rank=2, alpha=4, dropout=0.1)
NORM = "parameter/llm.model.final_layernorm.weight"
PROJECTION = "projections.llama_proj.weight"


class LateEngine(DDPEngine):
    """On a CPU what the engine is on a GPU: it looks at a step when the next one is taken, and its optimizer skips."""

    _steps_unseen = 1


class BlindEngine(DDPEngine):
    """It never looks."""

    _steps_unseen = 1_000


def late_engine(*, precision: str = "float32") -> LateEngine:
    model = TinyGPTV.from_backbones(tiny.backbones(seed=1), LORA, seed=2)
    for module in model.modules():
        if type(module) is nn.Linear and not module.weight.requires_grad:
            module.to(dtype_of(precision))
    return LateEngine(model, replace(STAGE, precision=precision), OPTIONS, rank=0, world_size=1)


def copied(engine: DDPEngine) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in engine._parameters.items()}


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one)


@pytest.mark.parametrize("packed", [False, True])
def test_no_operation_of_a_step_asks_what_a_tensor_holds(packed):
    """Tensors without data take two whole steps; whoever asked one of them for a number, or how many are true, fails.

    This covers every operation on the way there and back and in the optimizer, also those within torch. It does not
    cover copies to a GPU that the host waits for: `test_a_gpu_is_never_waited_for` does.
    """
    model = TinyGPTV.on_meta(tiny.ARCHITECTURE, LORA)
    batch = model.with_layout(ragged(holes=True), packed=packed)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fill_with_zeros(model, torch.bfloat16)
        model.to = lambda device: model  # it is there, and cannot be asked to move
        stage, options = replace(STAGE, precision="bfloat16"), replace(OPTIONS, packed=packed)
        engine = BlindEngine(model, stage, options, rank=0, world_size=1)
        results = [engine.step(batch, step=step, rate=1e-3, dataset="shapes") for step in (0, 1)]
        with pytest.raises(DataDependentOutputException):
            results[1].read()


def test_a_late_look_finds_a_loss_that_is_no_number_and_nothing_was_stepped_with_it():
    engine, batch = late_engine(), tiny.batch()
    engine.step(batch, step=0, rate=1e-2, dataset="shapes")
    state = engine.state()
    with torch.no_grad():
        state[NORM][0] = float("nan")
    before = copied(engine)
    engine.step(batch, step=1, rate=1e-2, dataset="shapes")
    assert is_same(before, copied(engine))
    message = r"the loss is nan at step 2 of tiny, on shapes; .* is llm\.model\.final_layernorm, .*000000000, 000000001"
    with pytest.raises(NotFiniteError, match=message):
        engine.step(batch, step=2, rate=1e-2, dataset="words")
    assert is_same(before, copied(engine))
    assert engine._optimizer.state[engine._parameters[PROJECTION]]["step"] == 1


def test_a_state_is_not_given_before_the_last_step_was_looked_at():
    engine = late_engine()
    engine._parameters[PROJECTION].register_hook(lambda gradient: gradient * float("inf"))
    before = copied(engine)
    engine.step(tiny.batch(), step=0, rate=1e-2, dataset="shapes")
    with pytest.raises(NotFiniteError, match=rf"of 1 of \d+ tensors are not finite at step 1 of tiny.*: {PROJECTION}"):
        engine.state()
    assert is_same(before, copied(engine))


def test_late_or_not_the_steps_are_the_same():
    """But for the last bits: the optimizer is the fused one, as on a GPU."""
    late, batch = late_engine(), tiny.batch()
    model = TinyGPTV.from_backbones(tiny.backbones(seed=1), LORA, seed=2)
    soon = DDPEngine(model, STAGE, OPTIONS, rank=0, world_size=1)
    for step in range(3):
        told = [engine.step(batch, step=step, rate=1e-2, dataset="shapes").read() for engine in (late, soon)]
        assert told[0] == pytest.approx(told[1], abs=1e-5)
    states = late.state(), soon.state()
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        torch.testing.assert_close(states[0][name], value, atol=1e-5, rtol=1e-5)


def test_a_late_state_restores_the_next_step_to_the_last_bit():
    ran, anew, batch = late_engine(), late_engine(), tiny.batch()
    ran.step(batch, step=0, rate=1e-2, dataset="shapes")
    anew.load_state({name: tensor.clone() for name, tensor in ran.state().items()})
    for engine in (ran, anew):
        engine.step(batch, step=1, rate=1e-2, dataset="shapes")
    assert is_same(ran.state(), anew.state())


def test_late_float16_skips_until_its_scale_fits_and_then_steps():
    engine, batch = late_engine(precision="float16"), tiny.batch()
    engine.load_state(engine.state() | {"scaler": torch.tensor([2.0**40, 0.0], dtype=torch.float64)})
    before = copied(engine)
    assert engine.step(batch, step=0, rate=1e-2, dataset="shapes").read()["gradient_norm"] is None
    assert is_same(before, copied(engine))
    assert engine.state()["scaler"].tolist() == [2.0**39, 0]
    engine.load_state(engine.state() | {"scaler": torch.tensor([256.0, 0.0], dtype=torch.float64)})
    assert engine.step(batch, step=1, rate=1e-2, dataset="shapes").read()["gradient_norm"] > 0
    assert not is_same(before, copied(engine))


def test_late_float16_stops_when_there_is_no_smaller_scale():
    engine, batch = late_engine(precision="float16"), tiny.batch()
    engine._parameters[PROJECTION].register_hook(lambda gradient: gradient * float("inf"))
    engine.load_state(engine.state() | {"scaler": torch.tensor([1.0, 0.0], dtype=torch.float64)})
    engine.step(batch, step=0, rate=1e-2, dataset="shapes")
    with pytest.raises(NotFiniteError, match=PROJECTION):
        engine.step(batch, step=1, rate=1e-2, dataset="shapes")


def test_a_batch_without_targets_steps_with_nothing():
    engine, batch = late_engine(), tiny.batch()
    nothing = replace(batch, labels_BT=torch.full_like(batch.labels_BT, IGNORED))
    assert engine.step(nothing, step=0, rate=0.0, dataset="shapes").read() == {"loss": 0, "gradient_norm": 0}


def test_a_step_takes_its_seconds_and_one_process_waits_for_no_other():
    engine = late_engine()
    for step in range(2):
        engine.step(tiny.batch(), step=step, rate=1e-3, dataset="shapes")
    told = engine.seconds()
    assert set(told) == set(PARTS)
    assert min(told["forward"], told["backward"], told["optimizer"]) > 0
    assert told["communication"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_is_never_waited_for(precision, packed):
    """From the second step on; in the first torch makes ready what it needs."""
    model = TinyGPTV.from_backbones(tiny.backbones(seed=1), LORA, seed=2)
    options = replace(OPTIONS, device="cuda", packed=packed, micro_batch=2)
    engine = DDPEngine(model, replace(STAGE, precision=precision), options, rank=0, world_size=1)
    batch = ragged(holes=True)
    engine.step(batch, step=0, rate=1e-3, dataset="shapes")
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [engine.step(batch, step=step, rate=1e-3, dataset="shapes") for step in range(1, 5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(0 < result.read()["loss"] < 20 for result in results)
    assert engine.seconds()["forward"] > 0
