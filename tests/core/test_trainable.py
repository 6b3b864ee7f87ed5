from dataclasses import replace

import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig

from tests.core import tiny
from tinygptv_core.model import TinyGPTV
from tinygptv_core.stage import Lora
from tinygptv_core.trainable import load_trainable, parameter_groups, trainable_parameters
from tinygptv_core.weights import Architecture, new_backbones

LORA = Lora(rank=2, alpha=4, dropout=0.0)
NORMS = {
    "llm.model.final_layernorm.weight",
    *(f"llm.model.layers.{layer}.{norm}.weight" for layer in (0, 1) for norm in ("input_layernorm", "post_layernorm")),
    *(f"llm.model.layers.{layer}.self_attn.{which}_layernorm.weight" for layer in (0, 1) for which in "qk"),
}
PROJECTIONS = {f"projections.llama_proj{which}.{end}" for which in ("", "2") for end in ("weight", "bias")}
ADAPTERS = {
    f"llm.model.layers.{layer}.self_attn.{linear}.lora_{which}.weight"
    for layer in (0, 1)
    for linear in ("query_key_value", "dense")
    for which in "AB"
}


def new_model(lora: Lora | None, seed: int = 2) -> TinyGPTV:
    return TinyGPTV.from_backbones(tiny.backbones(seed=1), lora, seed)


def values(model: TinyGPTV) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainable_parameters(model).items()}


def test_stage_1_trains_projections_and_norm_weights():
    assert trainable_parameters(new_model(None)).keys() == NORMS | PROJECTIONS


def test_later_stages_train_adapters_too_and_every_norm_keeps_its_name():
    assert trainable_parameters(new_model(LORA)).keys() == NORMS | PROJECTIONS | ADAPTERS


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_gradient_reaches_all_that_is_trained_and_nothing_else(lora):
    model = new_model(lora)
    model(tiny.batch())[0].backward()
    reached = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
    assert reached == {id(parameter) for parameter in trainable_parameters(model).values()}
    assert reached == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_the_full_size_model_trains_as_many_values_as_the_paper_says():
    """13,809,664 in stage 1 (0.356 %), 45,266,944 from stage 2 on (1.156 %); nothing is allocated for the backbones."""
    paper = Architecture(
        vision=Blip2VisionConfig(),
        qformer=Blip2QFormerConfig(),
        num_queries=32,
        llm=PhiConfig(
            hidden_size=2560,
            intermediate_size=10240,
            num_hidden_layers=32,
            num_attention_heads=32,
            qk_layernorm=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
        ),
        projection_widths=(768, 4096, 2560),
    )
    # transformers keeps a bias of zeros for the keys of each of the tower's 39 blocks, where the reference has none.
    key_biases = 39 * 1408
    counts = []
    for lora in (None, Lora(rank=64, alpha=16, dropout=0.05)):
        with torch.device("meta"):
            backbones = new_backbones(paper, tiny.tokenizer(), seed=0)
        model = TinyGPTV.from_backbones(backbones, lora, seed=0)
        trained = sum(parameter.numel() for parameter in trainable_parameters(model).values())
        counts.append((sum(parameter.numel() for parameter in model.parameters()) - key_biases, trained))
    assert counts == [(3_884_473_728, 13_809_664), (3_915_931_008, 45_266_944)]


@pytest.mark.parametrize("lora", [None, LORA])
def test_what_was_trained_is_loaded(lora):
    source, target = new_model(lora, seed=2), new_model(lora, seed=3)
    load_trainable(target, values(source), new_lora=False)
    assert all(torch.equal(value, values(source)[name]) for name, value in values(target).items())


def test_a_stage_without_adapters_is_the_start_of_one_with_them():
    source, target = new_model(None, seed=2), new_model(LORA, seed=3)
    fresh = values(target)
    load_trainable(target, values(source), new_lora=True)
    for name, value in values(target).items():
        assert torch.equal(value, fresh[name] if name in ADAPTERS else values(source)[name]), name


def test_a_missing_tensor_is_named_and_nothing_is_loaded():
    target = new_model(LORA, seed=3)
    before, tensors = values(target), values(new_model(LORA, seed=2))
    del tensors["llm.model.final_layernorm.weight"]
    with pytest.raises(ValueError, match=r"the checkpoint .* 1 missing: llm.model.final_layernorm.weight"):
        load_trainable(target, tensors, new_lora=False)
    assert all(torch.equal(value, before[name]) for name, value in values(target).items())


def test_adapters_that_are_not_there_are_missing_unless_they_are_new():
    with pytest.raises(ValueError, match=r"8 missing: .*lora_A"):
        load_trainable(new_model(LORA), values(new_model(None)), new_lora=False)


def test_adapters_that_are_there_are_unexpected_where_there_should_be_none():
    with pytest.raises(ValueError, match=r"8 unexpected: .*lora_A"):
        load_trainable(new_model(None), values(new_model(LORA)), new_lora=False)
    with pytest.raises(ValueError, match=r"8 unexpected: .*lora_A"):
        load_trainable(new_model(LORA), values(new_model(LORA)), new_lora=True)


def test_adapters_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"8 of another shape: .* \(2, 16\) instead of \(4, 16\)"):
        load_trainable(new_model(replace(LORA, rank=4)), values(new_model(LORA)), new_lora=False)


def test_new_adapters_need_a_model_that_has_them():
    with pytest.raises(ValueError, match="the model has no adapters"):
        load_trainable(new_model(None), values(new_model(None)), new_lora=True)


def test_matrices_decay_and_norms_and_biases_do_not():
    model = new_model(LORA)
    with_decay, without = parameter_groups(model, weight_decay=0.05)
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.05, 0.0)
    # Two projections and four adapters of two matrices; nine norms and two biases.
    assert (len(with_decay["params"]), len(without["params"])) == (2 + 8, 9 + 2)
    assert all(parameter.ndim == 2 for parameter in with_decay["params"])
    assert all(parameter.ndim == 1 for parameter in without["params"])
