"""A frozen Linear whose weight lies as its kernels read it gives what it gave, and so do its gradients."""

import pytest
import torch
from torch import nn

from tests.core.tiny_run import STAGE, write_backbones
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prepack import PrepackedLinear, prepack
from tinygptv_core.weights import load_backbones

NEEDED = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


@pytest.fixture
def model(tmp_path):
    parts = load_backbones(write_backbones(tmp_path / "backbones"), torch.float32)
    return TinyGPTV.from_backbones(parts, STAGE.lora, seed=1)


def prepacked(module):
    return [one for one in module.modules() if isinstance(one, PrepackedLinear)]


def frozen(width_in=12, width_out=20, bias=True):
    torch.manual_seed(1)
    return nn.Linear(width_in, width_out, bias=bias).requires_grad_(False)


@NEEDED
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12), (0, 12)])
def test_it_gives_what_the_linear_gives_and_its_gradient(shape, bias):
    linear = frozen(bias=bias)
    packed = PrepackedLinear(linear)
    given = [torch.randn(shape, generator=torch.Generator().manual_seed(2), requires_grad=True) for _ in range(2)]
    outs = [layer(one) for layer, one in zip((linear, packed), given, strict=True)]
    torch.testing.assert_close(outs[1], outs[0], atol=1e-6, rtol=0)
    for out in outs:
        (out * torch.arange(20.0)).sum().backward()
    torch.testing.assert_close(given[1].grad, given[0].grad, atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(packed(given[0]), outs[0], atol=1e-6, rtol=0)


@NEEDED
def test_gradients_that_lie_otherwise_in_memory_come_back_the_same():
    linear, packed = frozen(), PrepackedLinear(frozen())
    given = [torch.ones(4, 3, 12, requires_grad=True) for _ in range(2)]
    for layer, one in zip((linear, packed), given, strict=True):
        (layer(one.transpose(0, 1)).transpose(0, 2) * torch.arange(3.0)).sum().backward()
    torch.testing.assert_close(given[1].grad, given[0].grad, atol=1e-4, rtol=0)


@NEEDED
def test_a_model_keeps_its_names_and_values_and_what_it_sees(model):
    pictures_B3HW = torch.randn(11, 3, 8, 8)
    before, seen = (
        {name: value.clone() for name, value in model.state_dict().items()},
        model.encode_images(pictures_B3HW),
    )
    prepack(model)
    assert prepacked(model.vision) and prepacked(model.llm)
    assert not any(linear.weight.requires_grad for linear in prepacked(model))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model.encode_images(pictures_B3HW), seen, atol=1e-5, rtol=0)


@NEEDED
def test_a_second_time_changes_nothing(model):
    prepack(model)
    there = list(model.modules())
    prepack(model)
    assert list(model.modules()) == there


def test_a_model_in_16_bits_stays_as_it_is(model):
    model.vision.to(torch.bfloat16)
    prepack(model)
    assert not prepacked(model)
