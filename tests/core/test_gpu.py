"""What a GPU has ways of its own for. Where there is none, these tests are skipped."""

from dataclasses import replace

import pytest
import torch

from tests.core import tiny
from tests.core.test_packing import loss_and_gradients, ragged
from tests.core.tiny_run import OPTIONS, STAGE
from tinygptv_core.engine import DDPEngine
from tinygptv_core.model import TinyGPTV
from tinygptv_core.stages import Lora
from tinygptv_core.train import be_deterministic

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

PRECISIONS = ["float32", "bfloat16", "float16"]


@pytest.fixture(autouse=True)
def deterministic():
    be_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


def model(dropout: float) -> TinyGPTV:
    return TinyGPTV.from_backbones(tiny.backbones(seed=1), Lora(rank=2, alpha=4, dropout=dropout), seed=2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_give_the_same_bits_each_time(precision, packed):
    def after_steps() -> dict[str, torch.Tensor]:
        options = replace(OPTIONS, device="cuda", packed=packed, micro_batch=2)
        engine = DDPEngine(model(0.1), replace(STAGE, precision=precision), options, rank=0, world_size=1)
        for step in range(4):
            engine.step(ragged(holes=True), step=step, rate=1e-2, dataset="shapes")
        return engine.state()

    once, again = after_steps(), after_steps()
    assert once.keys() == again.keys()
    for name, value in once.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_packed_batch_has_the_loss_and_the_gradients_of_the_padded_one(precision):
    """In 16 bits a kernel of its own computes all samples."""
    made, batch = model(0.0).cuda(), ragged(holes=True).to("cuda")
    with torch.autocast("cuda", dtype=getattr(torch, precision), enabled=precision != "float32"):
        padded, packed = (loss_and_gradients(made, batch, packed=way) for way in (False, True))
    tolerance = 1e-5 if precision == "float32" else 5e-2
    for name, expected in padded.items():
        torch.testing.assert_close(packed[name], expected, atol=tolerance, rtol=tolerance)
