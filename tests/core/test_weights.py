import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.core import tiny
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.stage import Lora
from tinygptv_core.weights import NORMS, Backbones, assign_tensors, load_backbones, new_backbones, save_backbones

LORA = Lora(rank=2, alpha=4, dropout=0.0)


@pytest.fixture
def folder(tmp_path) -> Path:
    save_backbones(tiny.backbones(seed=1), tmp_path, torch.float32, {"run": "abc"})
    return tmp_path


def states(backbones: Backbones) -> list[tuple[str, torch.Tensor]]:
    parts = (backbones.vision, backbones.qformer, backbones.llm)
    return [item for part in parts for item in part.state_dict().items()]


def test_what_was_saved_is_loaded(folder):
    loaded, made = load_backbones(folder, torch.float32), tiny.backbones(seed=1)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(states(loaded), states(made), strict=True))
    assert loaded.projection_widths == (8, 12, 16)
    assert loaded.tokenizer("a b #").input_ids == [2, 3, 7]
    assert loaded.tokenizer.eos_token_id == loaded.tokenizer.pad_token_id == tiny.END


def test_a_loaded_llm_computes_what_the_saved_one_did(folder):
    """Its rotary frequencies are in no file."""
    ids_BS = torch.tensor([[1, 2, 3, 4, 5]])
    loaded, made = load_backbones(folder, torch.float32).llm.eval(), tiny.backbones(seed=1).llm.eval()
    torch.testing.assert_close(loaded(input_ids=ids_BS).logits, made(input_ids=ids_BS).logits, rtol=0, atol=1e-6)


def test_the_folder_is_what_the_map_says(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    parts = {f"{part}/{name}" for part in ("vision", "qformer", "llm") for name in ("config.json", "model.safetensors")}
    assert files == parts | {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "backbones.json"}
    assert json.loads((folder / "backbones.json").read_text()) == {"projection_widths": [8, 12, 16], "run": "abc"}


def test_the_same_weights_are_the_same_bytes(folder, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    save_backbones(load_backbones(folder, torch.float32), again, torch.float32, {"run": "abc"})
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


def test_norms_and_queries_stay_float32_in_16_bit_backbones(folder):
    loaded = load_backbones(folder, torch.bfloat16)
    layer = loaded.llm.model.layers[0]
    norms = (layer.input_layernorm, layer.post_layernorm, layer.self_attn.q_layernorm, loaded.qformer.qformer.layernorm)
    assert {parameter.dtype for part in norms for parameter in part.parameters()} == {torch.float32}
    assert loaded.qformer.query_tokens.dtype == torch.float32
    linears = [module for module in loaded.qformer.modules() if isinstance(module, nn.Linear)]
    narrow = (layer.self_attn.query_key_value, layer.mlp, loaded.vision.tower.embeddings.patch_embedding, *linears)
    assert {parameter.dtype for part in narrow for parameter in part.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_qformer_of_16_bit_linears_gives_the_bits_of_one_in_float32(folder, dtype):
    narrow, wide = load_backbones(folder, dtype).qformer, load_backbones(folder, torch.float32).qformer
    vision_BND = torch.linspace(-1, 1, 2 * 5 * 16).sin().reshape(2, 5, 16)
    with torch.autocast("cpu", dtype), torch.no_grad():
        assert torch.equal(narrow(vision_BND), wide(vision_BND))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_between_16_bit_layers_compute_in_float32(folder, dtype):
    """Each against the same norm in float64: nothing but float32's rounding, and attention's norm that of its input."""
    model = TinyGPTV.from_backbones(load_backbones(folder, dtype), LORA, seed=2).eval()
    seen = []
    for module in model.modules():
        if isinstance(module, NORMS):
            module.register_forward_hook(lambda *of: seen.append(of))
    with torch.autocast("cpu", dtype), torch.no_grad():
        model(tiny.batch())
    assert {type(norm) for norm, _, _ in seen} == set(NORMS)
    for norm, (given,), out in tuple(seen):
        wide = copy.deepcopy(norm).double()
        wide._forward_pre_hooks.clear()
        assert out.dtype == torch.float32
        if isinstance(norm, nn.LayerNorm):
            torch.testing.assert_close(out.double(), wide(given.double()), rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(out, norm(given.float()), rtol=torch.finfo(dtype).eps, atol=0)


def test_new_weights_depend_on_their_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (tiny.backbones(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(states(first), states(again), strict=True))
    assert not torch.equal(first.llm.lm_head.weight, other.llm.lm_head.weight)
    assert not torch.equal(first.qformer.query_tokens, other.qformer.query_tokens)


def test_a_tensor_too_few_or_too_many_or_misshapen_is_named(folder):
    path = folder / "llm" / "model.safetensors"
    tensors = load_file(path)
    tensors["extra"] = tensors.pop("lm_head.bias")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:3].clone()
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"llm does not hold the 35 tensors") as refusal:
        load_backbones(folder, torch.float32)
    assert "1 missing: lm_head.bias; 1 unexpected: extra" in str(refusal.value)
    assert "1 of another shape: lm_head.weight (3, 16) instead of (8, 16)" in str(refusal.value)


def test_only_some_of_many_names_are_told():
    with pytest.raises(ValueError, match=r"7 unexpected: 0, 1, 2, 3 and 3 more"):
        assign_tensors(nn.Module(), {str(number): torch.zeros(1) for number in range(7)}, torch.float32, "x")


@pytest.mark.parametrize("name", ["backbones.json", "vision/config.json", "llm/model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        load_backbones(folder, torch.float32)


@pytest.mark.parametrize("widths", [(8, 12), (12, 16), (16,)])
def test_projections_that_do_not_join_the_parts_are_refused(widths):
    with pytest.raises(ValueError, match=r"it must go from 8 \(Q-Former\) to 16 \(LLM\)"):
        new_backbones(replace(tiny.ARCHITECTURE, projection_widths=widths), tiny.tokenizer(), seed=0)
