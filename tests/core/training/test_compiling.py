from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.core import tiny
from tests.core.test_packing import LENGTHS, by_starts, loss_and_gradients, ragged
from tests.core.tiny_run import OPTIONS, STAGE
from tinygptv_core.batch import Batch
from tinygptv_core.engine import micro_batches
from tinygptv_core.model import TinyGPTV
from tinygptv_core.packing import Packing
from tinygptv_core.plain import ConfigError
from tinygptv_core.stage import Lora
from tinygptv_core.training.compiling import compile_layers, require_compiler
from tinygptv_core.training.ddp import DDPEngine
from tinygptv_core.training.not_finite import NotFiniteError

BACKEND = "aot_eager"
"""All of the compiler but the making of programs, which takes a minute on a slow core."""


def new_model() -> TinyGPTV:
    return TinyGPTV.from_backbones(tiny.backbones(seed=1), Lora(rank=2, alpha=4, dropout=0.0), seed=2).eval()


def shortened(batch: Batch, length: int) -> Batch:
    """The first `length` tokens of each sample."""
    cut = {name: getattr(batch, name)[:, :length] for name in ("ids_BT", "labels_BT", "mask_BT")}
    return replace(batch, **cut)


@pytest.mark.parametrize(("packed", "recompute"), [(False, True), (True, False)])
def test_compiled_layers_give_the_loss_and_the_gradients_for_any_length_and_are_compiled_once(packed, recompute):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(BACKEND)
    plain, compiled = new_model(), new_model()
    compile_layers(compiled, "cpu", backend=counter)
    if recompute:
        compiled.llm.recompute_layers()
    batch, counts = ragged(holes=False), []
    for length in (max(LENGTHS), 7):
        part = shortened(batch, length)
        expected, found = (loss_and_gradients(model, part, packed=packed) for model in (plain, compiled))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("recompute", [False, True])
def test_where_a_number_is_not_finite_is_looked_for_without_compiling_anew(recompute):
    torch._dynamo.reset()
    counter, model = CompileCounterWithBackend(BACKEND), new_model()
    compile_layers(model, "cpu", backend=counter)
    if recompute:
        model.llm.recompute_layers()
    engine = DDPEngine(model, STAGE, replace(OPTIONS, compile=True), rank=0, world_size=1)
    engine.step(tiny.batch(), step=0, rate=1e-3, dataset="shapes")
    compiled = counter.frame_count
    with torch.no_grad():
        engine.state()["parameter/llm.model.layers.1.input_layernorm.weight"][0] = float("nan")
    with pytest.raises(NotFiniteError, match=r"first layer .* is llm\.model\.layers\.1\.input_layernorm"):
        engine.step(tiny.batch(), step=1, rate=1e-3, dataset="shapes")
    assert counter.frame_count == compiled


@torch.library.custom_op("tests::attend_by_starts", mutates_args=())
def attend_by_starts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, longest: int, scale: float
) -> torch.Tensor:
    return by_starts(query, key, value, starts, starts, longest, longest, scale=scale, window_size=(-1, 0))


attend_by_starts.register_fake(lambda query, *_: torch.empty_like(query))


def test_compiled_layers_hand_packed_samples_to_the_kernel_of_a_gpu_and_are_compiled_once(monkeypatch):
    """A kernel is one operation to the compiler, as here; on a CPU there is none."""

    def kernel(query, key, value, starts, _starts, longest, _longest, *, scale, window_size):
        return attend_by_starts(query, key, value, starts, longest, scale)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(Packing, "on", lambda packing, device: packing)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(BACKEND)
    plain, compiled = new_model().bfloat16(), new_model().bfloat16()
    compile_layers(compiled, "cpu", backend=counter)
    batch, counts = ragged(holes=False), []
    batch = replace(batch, images_B3HW=None, slot_B=None)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for part in (batch, shortened(batch, 7), *micro_batches(batch, 3)[:1]):
            torch.testing.assert_close(compiled(part, packed=True)[0], plain(part, packed=True)[0])
            counts.append(counter.frame_count)
    assert counts[0] == counts[-1] > 0


@pytest.mark.parametrize(("device", "name"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_machine_without_a_compiler_is_told_so(monkeypatch, device, name):
    monkeypatch.setenv(name, "no-such-compiler")
    with pytest.raises(ConfigError, match=r"(no-such-compiler|triton).* is not here, .*\n.*\n.*--option compile=true"):
        require_compiler(device)
