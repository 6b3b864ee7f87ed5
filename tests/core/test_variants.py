"""The paper's ablations at toy size: what each leaves out stays out, from training to answers, and is said."""

import json
from dataclasses import replace

import pytest
import torch

from tests.core.tiny_run import STAGE, only_letters, picture, tiny_spec
from tinygptv_core.answer import ModelCard, ask_each, load_fresh, load_trained
from tinygptv_core.checkpoint import read_checkpoint
from tinygptv_core.formats.export import export_folder, export_published
from tinygptv_core.plain import ConfigError, sha256_of
from tinygptv_core.presets import NANO, PAPER, PARTS, with_settings, without
from tinygptv_core.train import starting_model, train
from tinygptv_core.trainable import is_lora, trainable_parameters

CARD = ModelCard(
    backbones="tiny", backbones_digest="", checkpoint_digest="", prompt="{}", max_new_tokens=4, precision="float32"
)
TWO_STEPS = replace(STAGE, schedule=replace(STAGE.schedule, warmup_steps=1, steps=2))
LAYER = "llm.model.layers.0."
NORMS = {
    "qk_norm": {f"{LAYER}self_attn.q_layernorm.weight", f"{LAYER}self_attn.k_layernorm.weight"},
    "rms_norm": {f"{LAYER}post_layernorm.weight"},
    "input_norm": {f"{LAYER}input_layernorm.weight"},
}


def ablated(part):
    """The tiny stage, changed as the ablation changes a preset's."""
    return replace(TWO_STEPS, **({"lora": None} if part == "lora" else {"without": (part,)}))


def trained(folder, stage):
    spec = tiny_spec(folder, stage=stage)
    train(spec, 0, 1, lambda done, total, text: None)
    return spec


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"), TWO_STEPS)


@pytest.fixture(scope="module", params=PARTS)
def variant(request, tmp_path_factory):
    """(what is left out, a run without it)."""
    return request.param, trained(tmp_path_factory.mktemp(request.param), ablated(request.param))


def test_a_checkpoint_lacks_what_the_variant_leaves_out_and_nothing_else(whole, variant):
    part, spec = variant
    every, found = (set(read_checkpoint(run.out).tensors) for run in (whole, spec))
    gone = {name for name in every if is_lora(name)} if part == "lora" else NORMS[part]
    assert gone and found == every - gone


def test_it_is_another_model_from_the_first_step_on(whole, variant):
    """Adapters begin as nothing, so that their absence is first seen in the second step's loss."""
    part, spec = variant
    ours, theirs = (json.loads((run.notes / "summary.json").read_text()) for run in (spec, whole))
    assert ours["loss_last"] != theirs["loss_last"]
    assert (ours["loss_first"] == theirs["loss_first"]) == (part == "lora")


def test_it_is_loaded_and_asked_as_it_was_trained(variant):
    part, spec = variant
    loaded = load_trained(spec.backbones, spec.out, "float32", "cpu")
    kept = {name.removesuffix(".weight") for name in NORMS.get(part, ())}
    assert all(isinstance(loaded.model.get_submodule(name), torch.nn.Identity) for name in kept)
    assert loaded.form.without == spec.stage.without
    only_letters(loaded.model)
    (answer,) = ask_each(loaded, CARD, [(picture(1), "what?")])
    assert len(answer) == 4


def test_the_next_stage_of_the_same_variant_goes_on_from_it(variant):
    _, spec = variant
    model, _ = starting_model(replace(spec, init=spec.out))
    parameters, tensors = trainable_parameters(model), read_checkpoint(spec.out).tensors
    assert parameters.keys() == tensors.keys()
    assert all(torch.equal(parameters[name], tensors[name]) for name in tensors)


def test_fresh_projections_are_scored_without_the_norm_too(variant):
    part, spec = variant
    names = {name for name, _ in load_fresh(spec.backbones, spec.stage, "cpu").model.named_parameters()}
    assert not names & NORMS.get(part, set())


def test_a_variant_does_not_go_on_from_another(whole, variant):
    part, spec = variant
    onto_whole, onto_variant = replace(whole, init=spec.out), replace(spec, init=whole.out)
    if part == "lora":  # the other way they may be new
        with pytest.raises(
            ConfigError, match=r"tiny has adapters of rank \d, but tiny, which goes on from it, has none"
        ):
            starting_model(onto_variant)
        return
    with pytest.raises(ConfigError, match=f"was trained without {part}, but tiny trains with all norms: another model"):
        starting_model(onto_whole)
    with pytest.raises(ConfigError, match=rf"(?s)with all norms, but tiny trains without {part}.*tiny.without='\[\]'"):
        starting_model(onto_variant)


def test_what_no_layout_of_others_can_say_is_not_exported(tmp_path, variant):
    part, spec = variant
    if part == "lora":
        export_published(spec.out, tmp_path / "TinyGPT-V.pth")
        assert (tmp_path / "TinyGPT-V.pth").is_file()
        return
    said = f"was trained without {part}, which neither layout can say"
    with pytest.raises(ConfigError, match=said):
        export_published(spec.out, tmp_path / "TinyGPT-V.pth")
    with pytest.raises(ConfigError, match=said):
        export_folder(spec.backbones, spec.out, tmp_path / "hf", {})
    assert list(tmp_path.iterdir()) == []


def test_sixteen_bits_do_without_all_norms(whole, tmp_path):
    """Norms give float32 between 16 bit layers; without any of them nothing else may depend on that."""
    stage = replace(TWO_STEPS, precision="bfloat16", without=tuple(NORMS))
    every, found = (set(read_checkpoint(run.out).tensors) for run in (whole, trained(tmp_path, stage)))
    assert found == every - set().union(*NORMS.values())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("preset", [NANO, PAPER], ids=["nano", "paper"])
def test_an_ablation_changes_that_part_of_every_stage_and_the_names(preset, part):
    found = without(preset, part)
    assert (found.name, found.model_name) == (f"{preset.name}_no_{part}", f"tinygptv-{found.name.replace('_', '-')}")
    if part == "lora":
        assert [stage.lora for stage in found.stages] == [None] * 4
        assert [replace(ours, lora=its.lora) for ours, its in zip(found.stages, preset.stages, strict=True)] == [
            *preset.stages
        ]
    else:
        assert found.stages == tuple(replace(stage, without=(part,)) for stage in preset.stages)
    assert sha256_of(found) != sha256_of(preset) and found.data == preset.data


def test_of_an_ablation_another_one_is_made_which_leaves_out_both():
    both = without(without(without(NANO, "input_norm"), "lora"), "qk_norm")
    assert both.name == "nano_no_input_norm_no_lora_no_qk_norm"
    assert {(stage.without, stage.lora) for stage in both.stages} == {(("qk_norm", "input_norm"), None)}


def test_all_stages_are_set_alike_or_refused():
    told = [f'{stage.name}.without=["qk_norm"]' for stage in NANO.stages]
    assert with_settings(NANO, told).stages == without(NANO, "qk_norm").stages
    with pytest.raises(ConfigError, match=r"stage1: qk_norm; stage2: none; .* they train one model"):
        with_settings(NANO, told[:1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["stage3.lora=null"], "stage2 has adapters of rank 32, but stage3, which goes on from it, has none"),
        (
            ["stage4.lora.rank=16"],
            "stage3 has adapters of rank 32, but stage4, which goes on from it, has some of rank 16",
        ),
    ],
)
def test_adapters_that_the_next_stage_cannot_go_on_from_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        with_settings(NANO, settings)


@pytest.mark.parametrize(
    "settings",
    [
        ["stage2.lora=null"],  # they begin with stage 3
        ["stage2.lora.rank=8", "stage3.lora.rank=8", "stage4.lora.rank=8"],
        ["stage4.lora.alpha=8"],
    ],
)
def test_adapters_may_begin_with_any_stage_and_be_scaled_anew(settings):
    assert with_settings(NANO, settings) != NANO


@pytest.mark.parametrize(
    ("norms", "said"),
    [
        ('["rms_norm","qk_norm"]', "once each, in this order: qk_norm, rms_norm, input_norm"),
        ('["qk_norm","qk_norm"]', "once each"),
        ('["qknorm"]', "must be one of 'qk_norm'"),
    ],
)
def test_norms_that_there_are_not_are_refused(norms, said):
    with pytest.raises(ConfigError, match=said):
        with_settings(NANO, [f"{stage.name}.without={norms}" for stage in NANO.stages])


def test_a_model_with_all_norms_does_not_speak_of_them(whole):
    assert "without" not in (whole.out / "stage.json").read_text()
