from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.core import tiny
from tests.core.test_packing import LENGTHS, loss_and_gradients, ragged
from tinygptv_core.batch import Batch
from tinygptv_core.compiling import compile_layers, require_compiler
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.stages import Lora

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


@pytest.mark.parametrize(("device", "name"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_machine_without_a_compiler_is_told_so(monkeypatch, device, name):
    monkeypatch.setenv(name, "no-such-compiler")
    with pytest.raises(ConfigError, match=r"(no-such-compiler|triton).* is not here, .*\n.*\n.*--option compile=true"):
        require_compiler(device)
