"""What a GPU has ways of its own for. Where there is none, these tests are skipped."""

from dataclasses import replace

import pytest
import torch

from tests.core import tiny
from tests.core.test_packing import loss_and_gradients, ragged
from tests.core.tiny_run import OPTIONS, STAGE
from tinygptv_core.model import TinyGPTV
from tinygptv_core.stage import Lora
from tinygptv_core.train import be_deterministic
from tinygptv_core.trainable import trainable_parameters
from tinygptv_core.training.ddp import DDPEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

PRECISIONS = ["float32", "bfloat16", "float16"]


@pytest.fixture(autouse=True)
def deterministic():
    be_deterministic()
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]


def model(dropout: float) -> TinyGPTV:
    """Its adapters do something, or the gradients of their first halves would all be zero."""
    made = TinyGPTV.from_backbones(tiny.backbones(seed=1), Lora(rank=2, alpha=4, dropout=dropout), seed=2)
    with torch.no_grad():
        for name, parameter in trainable_parameters(made).items():
            if ".lora_B." in name:
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).sin().reshape(parameter.shape))
    return made


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_give_the_same_bits_each_time_and_after_a_stop(precision, packed):
    def new_engine() -> DDPEngine:
        options = replace(OPTIONS, device="cuda", packed=packed, micro_batch=2)
        return DDPEngine(model(0.1), replace(STAGE, precision=precision), options, rank=0, world_size=1)

    def step(engine: DDPEngine, steps: range) -> dict[str, torch.Tensor]:
        for number in steps:
            engine.step(ragged(holes=True), step=number, rate=1e-2, dataset="shapes")
        return {name: value.clone() for name, value in engine.state().items()}

    once, stopped, resumed = step(new_engine(), range(4)), step(new_engine(), range(2)), new_engine()
    assert_same_bits(once, step(new_engine(), range(4)))
    resumed.load_state(stopped)
    assert_same_bits(once, step(resumed, range(2, 4)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_packed_batch_has_the_loss_and_the_gradients_of_the_padded_one(precision):
    """In 16 bits a kernel of its own computes all samples."""
    made, batch = model(0.0).cuda(), ragged(holes=True).to("cuda")
    with torch.autocast("cuda", dtype=getattr(torch, precision), enabled=precision != "float32"):
        padded, packed = (loss_and_gradients(made, batch, packed=way) for way in (False, True))
    tolerance = 1e-5 if precision == "float32" else 5e-2
    for name, expected in padded.items():
        torch.testing.assert_close(packed[name], expected, atol=tolerance, rtol=tolerance)
