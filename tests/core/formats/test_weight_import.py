"""Files of every layout become the same artifact; every wrong file stops with its name and what it usually means."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.core import brought, tiny
from tests.core.brought import LORA, SIZES, compress
from tinygptv_core.answer import load_trained
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.checkpoint import read_checkpoint
from tinygptv_core.checkpoint_form import CheckpointForm
from tinygptv_core.formats.architectures import PAPER, architecture
from tinygptv_core.formats.coverage import table
from tinygptv_core.formats.export import export_published
from tinygptv_core.formats.published import name_in_checkpoint
from tinygptv_core.formats.weight_import import WeightPaths, import_backbones, import_checkpoint, trained_shapes
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.tensor_files.weight_files import open_weights, read_pickle
from tinygptv_core.tensor_files.weight_folders import files_of
from tinygptv_core.trainable import trainable_parameters
from tinygptv_core.weights import Architecture, load_backbones

FORM = CheckpointForm(
    name="stage2", image_size=8, lora=LORA, prompt_template=None, eval_template="Instruct: {}\nOutput:", end_symbol="\n"
)
STAGE1 = replace(FORM, name="stage1", lora=None)


def imported(folder: Path, sources: WeightPaths, dtype=torch.float32):
    folder.mkdir(parents=True)
    return import_backbones(folder, sources, architecture(SIZES), dtype)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> WeightPaths:
    return brought.all_published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def wanted(published, tmp_path_factory) -> tuple[Path, str]:
    """The artifact that every layout has to give, and its digest."""
    folder = tmp_path_factory.mktemp("wanted") / "backbones"
    imported(folder, published)
    return folder, digest_of(members_of(folder))


def test_what_was_imported_is_what_transformers_has(wanted):
    loaded = load_backbones(wanted[0], torch.float32)
    theirs = brought.blip2_model().eval()
    images_B3HW = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
    theirs.vision_model.post_layernorm.eps = 1e-5
    vision_BND = theirs.vision_model(images_B3HW).last_hidden_state
    torch.testing.assert_close(loaded.vision(images_B3HW), vision_BND, rtol=0, atol=1e-5)
    query_BQE = theirs.qformer(query_embeds=theirs.query_tokens, encoder_hidden_states=vision_BND).last_hidden_state
    torch.testing.assert_close(loaded.qformer(vision_BND), query_BQE, rtol=0, atol=1e-5)


def test_the_language_model_without_its_new_norms_computes_what_transformers_phi_does(wanted):
    """Norms are put out of action: then what is left is Phi, and its queries, keys and values lie where they should."""
    ours, theirs = load_backbones(wanted[0], torch.float32).llm.eval(), brought.phi_model().eval()
    for layer in ours.model.layers:
        layer.post_layernorm = layer.self_attn.q_layernorm = layer.self_attn.k_layernorm = torch.nn.Identity()
    ids_BS = torch.tensor([[1, 2, 3, 4, 5]])
    torch.testing.assert_close(ours(input_ids=ids_BS).logits, theirs(input_ids=ids_BS).logits, rtol=1e-4, atol=1e-4)


PHI = {
    "apart": brought.phi_split,
    "as Microsoft first had it": lambda folder: brought.phi_stacked(folder, counted=False),
    "counted list": lambda folder: brought.phi_stacked(folder, counted=True),
}


@pytest.mark.parametrize("layout", PHI)
def test_every_layout_of_phi_gives_the_same_bytes(published, wanted, tmp_path, layout):
    coverages = imported(tmp_path / "out", replace(published, llm=PHI[layout](tmp_path / "phi")))
    assert layout in coverages[2].layout
    assert digest_of(members_of(tmp_path / "out")) == wanted[1]


@pytest.mark.parametrize("shard_size", ["5GB", "5KB"])
def test_a_folder_of_hugging_face_gives_the_same_bytes(published, wanted, tmp_path, shard_size):
    folder = brought.hf_blip2(tmp_path / "blip2", shard_size)
    assert (len(files_of(folder)) > 5) == (shard_size == "5KB")
    imported(tmp_path / "out", WeightPaths(vision=folder, qformer=folder, llm=published.llm))
    assert digest_of(members_of(tmp_path / "out")) == wanted[1]


def test_every_tensor_is_accounted_for(published, tmp_path):
    vision, qformer, llm = imported(tmp_path / "out", published)
    assert len(vision.found) == len(brought.eva_tensors()) - len(vision.left) + 2  # and ln_vision of the other file
    assert set(vision.left) == {n for n in brought.eva_tensors() if n.startswith(("blocks.2.", "norm.", "head."))}
    left = {
        "t5_proj.weight",
        "t5_proj.bias",
        "ln_vision.weight",
        "ln_vision.bias",
        "Qformer.bert.embeddings.position_ids",
    }
    assert set(qformer.left) == left and len(qformer.found) == len(brought.blip2_tensors()) - len(left)
    assert len(llm.found) == len(brought.fused_tensors()) and len(llm.new) == 2 * (2 + 2 + 1)
    assert not any((*part.missing, *part.unexpected, *part.unfit) for part in (vision, qformer, llm))
    text = table((vision, qformer, llm))
    assert (
        "blocks.2.norm1.weight" in text and "t5_proj.weight" in text and "model.layers.0.self_attn.q_layernorm" in text
    )


def test_new_norms_start_as_norms_that_change_nothing(wanted):
    layer = load_backbones(wanted[0], torch.float32).llm.model.layers[1]
    for norm in (layer.self_attn.q_layernorm, layer.self_attn.k_layernorm, layer.post_layernorm):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert torch.equal(layer.self_attn.q_layernorm.bias, torch.zeros(8))


def test_norms_that_a_file_has_are_taken(published, tmp_path):
    norms = {
        f"model.layers.{n}.self_attn.{x}_layernorm.{e}": torch.full((8,), 3.0)
        for n in (0, 1)
        for x in "qk"
        for e in ("weight", "bias")
    }
    norms |= {f"model.layers.{n}.post_layernorm.weight": torch.full((16,), 3.0) for n in (0, 1)}
    folder = brought.save_phi(tmp_path / "phi", brought.fused_tensors() | norms)
    llm = imported(tmp_path / "out", replace(published, llm=folder))[2]
    assert llm.new == () and norms.keys() <= set(llm.found)


def test_16_bit_backbones_keep_norms_and_qformer_in_32(published, tmp_path):
    imported(tmp_path / "out", published, torch.bfloat16)
    dtypes = {
        part: {
            name: stored.dtype for name, stored in open_weights(tmp_path / "out" / part / "model.safetensors").items()
        }
        for part in ("vision", "qformer", "llm")
    }
    assert set(dtypes["qformer"].values()) == {torch.float32}
    assert dtypes["vision"]["encoder.layers.0.layer_norm1.weight"] == torch.float32
    assert dtypes["llm"]["model.layers.0.self_attn.query_key_value.weight"] == torch.bfloat16
    assert load_backbones(tmp_path / "out", torch.bfloat16).llm.lm_head.weight.dtype == torch.bfloat16


def spoilt(published: WeightPaths, tmp_path: Path, part: str, change) -> WeightPaths:
    """The published files, with one of them changed."""
    tensors = {"vision": brought.eva_tensors, "qformer": brought.blip2_tensors, "llm": brought.fused_tensors}[part]()
    change(tensors)
    if part == "llm":
        return replace(published, llm=brought.save_phi(tmp_path / "phi", tensors))
    torch.save({"model": tensors}, tmp_path / f"{part}.pth")
    return replace(published, **{part: tmp_path / f"{part}.pth"})


WRONG = {
    "a tensor is missing": (
        "vision",
        lambda t: t.pop("blocks.1.attn.q_bias"),
        "1 missing: blocks.1.attn.q_bias",
        "g/14",
    ),
    "two blocks too many": (
        "vision",
        lambda t: t.update({name.replace(".2.", ".3."): t[name] for name in list(t) if name.startswith("blocks.2.")}),
        "unexpected: blocks.3.norm1.weight",
        "another ViT",
    ),
    "another width": (
        "vision",
        lambda t: t.update(cls_token=torch.ones(1, 1, 9)),
        "cls_token (1, 1, 9) instead of (1, 1, 16)",
        "sizes",
    ),
    "weights of 8 bits": (
        "vision",
        lambda t: t.update(cls_token=t["cls_token"].to(torch.int8)),
        "cls_token int8 instead of float64, float32, bfloat16, float16",
        "of another shape or dtype",
    ),
    "weights of 8 bits with a fraction": (
        "qformer",
        lambda t: t.update(query_tokens=t["query_tokens"].to(torch.float8_e4m3fn)),
        "query_tokens float8_e4m3fn instead of float64",
        "of another shape or dtype",
    ),
    "no ln_vision": ("qformer", lambda t: t.pop("ln_vision.bias"), "1 missing: ln_vision.bias", "flant5xxl"),
    "the BLIP-2 with OPT": (
        "qformer",
        lambda t: t.update({"opt_proj.weight": torch.ones(2)}),
        "unexpected: opt_proj.weight",
        "another BLIP-2",
    ),
    "fewer layers": (
        "qformer",
        lambda t: [t.pop(name) for name in list(t) if ".layer.1." in name],
        "missing: Qformer.bert.encoder.layer.1.attention.self.query.weight",
        "another BLIP-2",
    ),
    "no head": ("llm", lambda t: t.pop("lm_head.bias"), "1 missing: lm_head.bias", "wrong revision of Phi-2"),
    "another vocabulary": (
        "llm",
        lambda t: t.update({"lm_head.weight": torch.ones(9, 16)}),
        "lm_head.weight (9, 16) instead of (8, 16)",
        "another Phi",
    ),
    "rows that make no heads": (
        "llm",
        lambda t: t.update({"model.layers.0.self_attn.query_key_value.bias": torch.ones(47)}),
        "query_key_value.bias (47,) instead of (48,)",
        "another Phi",
    ),
    "adapters": (
        "llm",
        lambda t: t.update({"model.layers.0.self_attn.dense.lora_A.weight": torch.ones(2)}),
        "lora_A",
        "adapters",
    ),
    "norms in one layer": (
        "llm",
        lambda t: t.update({"model.layers.0.post_layernorm.weight": torch.ones(16)}),
        "q_layernorm",
        "put together",
    ),
    "another model": ("llm", lambda t: (t.clear(), t.update({"gpt.x": torch.ones(2)})), "no layout of Phi-2", "gpt.x"),
    "a value that is not finite": (
        "llm",
        lambda t: t["lm_head.bias"].fill_(float("nan")),
        "lm_head.bias holds a value that is not finite",
        "damaged",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_stops_with_its_name_and_what_it_usually_means(published, tmp_path, case):
    part, change, said, meaning = WRONG[case]
    with pytest.raises(ConfigError) as refusal:
        imported(tmp_path / "out", spoilt(published, tmp_path, part, change))
    assert said in str(refusal.value) and meaning in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads 4 instead of 2"),
        ({"hidden_act": "relu"}, "hidden_act relu instead of gelu_new"),
        ({"layer_norm_eps": 0.5}, "layer_norm_eps 0.5 instead of 1e-05"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling .* instead of None"),
        ({"num_attention_heads": None}, "num_attention_heads 32 instead of 2"),
        ({"text_config": None}, "config.json holds null where there must be names and values"),
        ({"text_config": [1]}, r"config.json holds \[1\] where there must be names and values"),
    ],
)
def test_a_config_of_another_model_is_told_apart(published, tmp_path, change, said):
    """What it does not say is what transformers takes: 32 heads."""
    folder = brought.phi_split(tmp_path / "phi")
    told = json.loads((folder / "config.json").read_text()) | change
    told = {name: value for name, value in told.items() if value is not None or name == "text_config"}
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=said):
        imported(tmp_path / "out", replace(published, llm=folder))


def test_a_language_model_without_its_tokenizer_is_refused(published, tmp_path):
    folder = brought.phi_fused(tmp_path / "phi")
    with pytest.raises(ConfigError, match="comes with its tokenizer"):
        imported(tmp_path / "one", replace(published, llm=folder / "model.safetensors"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer.json"):
        imported(tmp_path / "two", replace(published, llm=folder))


def test_a_value_that_is_not_finite_is_told_by_the_files_own_name(published, tmp_path):
    sources = spoilt(published, tmp_path, "vision", lambda t: t["blocks.1.attn.v_bias"].fill_(float("inf")))
    with pytest.raises(ConfigError) as refusal:
        imported(tmp_path / "out", sources)
    told = str(refusal.value)
    assert told.startswith("encoder.layers.1.self_attn.qkv.bias holds a value that is not finite")
    assert f"blocks.1.attn.v_bias in {sources.vision}" in told


@pytest.mark.parametrize(("told", "said"), [('{"a": 1}', "is no tokenizer"), ("nope", "is no JSON")])
def test_a_tokenizer_that_is_none_is_refused(published, tmp_path, told, said):
    folder = brought.phi_fused(tmp_path / "phi")
    (folder / "tokenizer.json").write_text(told)
    with pytest.raises(ConfigError, match=said):
        imported(tmp_path / "out", replace(published, llm=folder))


def test_a_folder_in_the_place_of_a_config_is_refused(published, tmp_path):
    folder = brought.phi_fused(tmp_path / "phi")
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(ConfigError, match="config.json cannot be read: Is a directory"):
        imported(tmp_path / "out", replace(published, llm=folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_json_too_deep_to_be_read_is_refused(published, tmp_path, name):
    folder = brought.phi_fused(tmp_path / "phi")
    (folder / name).write_text('{"a":' + "[" * 100_000)
    with pytest.raises(ConfigError, match=f"{name} is nested too deeply"):
        imported(tmp_path / "out", replace(published, llm=folder))


@pytest.mark.parametrize(("lora", "adapter"), [(False, ""), (True, ""), (True, "default.")])
def test_a_checkpoint_is_read_wrapped_or_not(tmp_path, lora, adapter):
    file = brought.checkpoint(tmp_path / "stage.pth", lora=lora, adapter=adapter)
    coverage = import_checkpoint(tmp_path / "out", file, FORM if lora else STAGE1, architecture(SIZES))
    found, wanted = read_checkpoint(tmp_path / "out"), brought.trained(lora=lora)
    assert found.form == (FORM if lora else STAGE1)
    assert found.tensors.keys() == wanted.keys()
    assert all(torch.equal(found.tensors[name], wanted[name]) for name in wanted)
    assert len(coverage.found) == len(wanted) and set(coverage.left) == {"Qformer.bert.embeddings.position_ids"}


def test_what_a_checkpoint_of_the_toy_holds_is_what_the_model_trains():
    model = TinyGPTV.on_meta(architecture(SIZES), LORA)
    wanted = {name: tuple(tensor.shape) for name, tensor in brought.trained(lora=True).items()}
    assert {name: tuple(parameter.shape) for name, parameter in trainable_parameters(model).items()} == wanted


def test_an_imported_checkpoint_answers(wanted, tmp_path):
    file = brought.checkpoint(tmp_path / "stage.pth", lora=True)
    import_checkpoint(tmp_path / "out", file, FORM, architecture(SIZES))
    trained = load_trained(wanted[0], tmp_path / "out", "float32", "cpu")
    scale = trained.model.llm.model.layers[0].self_attn.dense.scaling["default"]
    assert scale == LORA.alpha / LORA.rank
    assert torch.isfinite(trained.model(tiny.batch())[0])


@pytest.mark.parametrize(
    ("lora", "form", "said"),
    [
        (True, STAGE1, "unexpected: llama_model.base_model.model.model.layers.0.self_attn.query_key_value.lora_A"),
        (True, STAGE1, "a checkpoint of another stage"),
        (True, STAGE1, "--set 'stage1.lora="),
        (False, FORM, "missing: llama_model.model.layers.0.self_attn.dense.lora_A.weight"),
        (True, replace(FORM, lora=replace(LORA, rank=4)), "adapters of another rank"),
        (True, replace(FORM, lora=replace(LORA, alpha=16)), "trained with lora_alpha 6, the stage has 16"),
    ],
)
def test_a_checkpoint_of_another_stage_is_told_apart(tmp_path, lora, form, said):
    file = brought.checkpoint(tmp_path / "stage.pth", lora=lora)
    with pytest.raises(ConfigError) as refusal:
        import_checkpoint(tmp_path / "out", file, form, architecture(SIZES))
    assert said in str(refusal.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"image_size": 448}, "image_size 448, the stage has 8.*--set stage2.image_size=448"),
        ({"end_sym": "###"}, r"end_sym '###', the stage has '\\n'.*--set 'stage2.end_symbol=###'"),
        (
            {"prompt_template": "[INST] {} [/INST]"},
            r"prompt_template '\[INST\].*--set 'stage2.prompt_template=\[INST\]",
        ),
        ({"lora_alpha": "16"}, "lora_alpha '16', the stage has 6.*--set stage2.lora.alpha=16"),
        ({"lora_alpha": "6", "image_size": 8.0, "prompt_template": "", "end_sym": "\n"}, None),
    ],
)
def test_what_a_checkpoint_says_of_its_stage_must_be_so(tmp_path, told, said):
    held = torch.load(brought.checkpoint(tmp_path / "stage.pth", lora=True))
    held["config"]["model"] |= told
    torch.save(held, tmp_path / "stage.pth")
    if said is None:
        import_checkpoint(tmp_path / "out", tmp_path / "stage.pth", FORM, architecture(SIZES))
        return
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        import_checkpoint(tmp_path / "out", tmp_path / "stage.pth", FORM, architecture(SIZES))


def test_the_spaces_around_a_question_are_the_dialects(tmp_path):
    """The original's evaluations have two where its training has one."""
    held = torch.load(brought.checkpoint(tmp_path / "stage.pth", lora=True))
    held["config"]["model"] |= {"prompt_template": "[INST] {} [/INST]"}
    torch.save(held, tmp_path / "stage.pth")
    form = replace(FORM, prompt_template="[INST] {}  [/INST]")
    import_checkpoint(tmp_path / "out", tmp_path / "stage.pth", form, architecture(SIZES))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "projections.llama_proj.bias holds a value that is not finite"),
        (lambda tensor: tensor.long(), "llama_proj.bias int64 instead of float64"),
    ],
)
def test_a_checkpoint_of_other_than_finite_numbers_is_refused(tmp_path, change, said):
    told = torch.load(brought.checkpoint(tmp_path / "stage.pth", lora=True))
    told["model"]["llama_proj.bias"] = change(told["model"]["llama_proj.bias"])
    torch.save(told, tmp_path / "stage.pth")
    with pytest.raises(ConfigError, match=said):
        import_checkpoint(tmp_path / "out", tmp_path / "stage.pth", FORM, architecture(SIZES))


def test_a_checkpoint_on_another_language_model_is_told_apart(tmp_path):
    deeper = replace(SIZES, llm=replace(SIZES.llm, layers=3))
    file = brought.checkpoint(tmp_path / "stage.pth", lora=False)
    with pytest.raises(ConfigError, match="5? ?missing: llama_model.model.layers.2.*\n.*another language model"):
        import_checkpoint(tmp_path / "out", file, STAGE1, architecture(deeper))


PARAMETERS = {
    # part: parameters at full size; transformers' tower also has a bias on keys, which is 0
    "vision": 985_894_528 + 2 * 1408 + 39 * 1408,
    "qformer": 105_137_664 + 24_576,
    "projections": 13_638_144,
    "llm": 2_779_683_840 + 92_160,
}


def test_the_architecture_of_the_paper_has_the_papers_parameters():
    model = TinyGPTV.on_meta(PAPER, lora=None)
    found = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in PARAMETERS}
    assert found == PARAMETERS
    assert sum(p.numel() for p in trainable_parameters(model).values()) == 13_809_664
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


MEASURE = """
import re, sys
from pathlib import Path
from tests.core.formats import test_weight_import as work

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

measured, root, arguments = getattr(work, sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
measured(root / "warm", 64, *arguments)
before = peak()
measured(root, work.WIDE, *arguments)
print(peak() - before)
"""
WIDE = 1024


def grown(folder: Path, width: int, form: str) -> Path:
    """Phi in Microsoft's layout (whose rows must be moved) at this width, with the rest of the toy."""
    llm = replace(SIZES.llm, width=width, mlp_width=4 * width, heads=4)
    sizes = replace(SIZES, llm=llm, projection_widths=(8, 12, width))
    folder.mkdir(parents=True)
    shapes = {
        "Wqkv": ("mixer.Wqkv", 3 * width, width),
        "dense": ("mixer.out_proj", width, width),
        "fc1": ("mlp.fc1", 4 * width, width),
        "fc2": ("mlp.fc2", width, 4 * width),
    }
    tensors = {f"transformer.h.{n}.ln.{end}": torch.ones(width) for n in (0, 1) for end in ("weight", "bias")}
    for number in (0, 1):
        for name, rows, columns in shapes.values():
            tensors[f"transformer.h.{number}.{name}.weight"] = torch.randn(rows, columns)
            tensors[f"transformer.h.{number}.{name}.bias"] = torch.randn(rows)
    tensors |= {f"lm_head.ln.{end}": torch.ones(width) for end in ("weight", "bias")}
    tensors |= {"lm_head.linear.weight": torch.randn(8, width), "lm_head.linear.bias": torch.randn(8)}
    tensors["transformer.embd.wte.weight"] = torch.randn(8, width)
    (folder / "sizes.txt").write_text(str(sizes.llm.width))
    brought.eva(folder / "eva.pth")
    wide = {"t5_proj.weight": torch.randn(12 * width, width)}  # which is left
    save_as(form, {"model": {**brought.blip2_tensors(), **wide}}, folder / "blip2.pth")
    brought.phi_fused(folder / "phi")
    (folder / "phi" / "model.safetensors").unlink()
    told = {"n_embd": width, "n_layer": 2, "n_head": 4, "rotary_dim": width // 8}  # and n_inner is four times n_embd
    (folder / "phi" / "config.json").write_text(json.dumps(told))
    if form == "safetensors":
        save_file(tensors, folder / "phi" / "model.safetensors")
    else:
        save_as(form, tensors, folder / "phi" / "pytorch_model.bin")
    return folder


def save_as(form: str, held: object, path: Path) -> None:
    """As torch saves it; as before 1.6, or compressed, where it says so: these two cannot be mapped."""
    torch.save(held, path, _use_new_zipfile_serialization=form != "legacy")
    if form == "compressed":
        compress(path)


def measured_import(folder: Path, width: int, form: str) -> None:
    files = folder / "files"
    if not files.exists():
        grown(files, width, form)
    llm = replace(SIZES.llm, width=width, mlp_width=4 * width, heads=4)
    sizes = replace(SIZES, llm=llm, projection_widths=(8, 12, width))
    (folder / "out").mkdir()
    sources = WeightPaths(vision=files / "eva.pth", qformer=files / "blip2.pth", llm=files / "phi")
    import_backbones(folder / "out", sources, architecture(sizes), torch.float16)


def peak_of(measured: Callable[..., None], folder: Path, *arguments: str) -> int:
    """How many bytes it takes beyond what a small one has taken, in a process of its own.

    The pages of mapped files count as memory, too.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, measured.__name__, str(folder), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        cwd=Path(__file__).parents[3],
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("form", ["archive", "legacy", "compressed", "safetensors"])
def test_importing_takes_little_more_memory_than_the_weights(tmp_path, form):
    files = grown(tmp_path / "files", WIDE, form)  # compressed, they are hardly smaller: numbers without a pattern
    size = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    assert size > 90_000_000
    assert peak_of(measured_import, tmp_path, form) < 1.2 * size
    assert load_file(tmp_path / "out" / "llm" / "model.safetensors")["model.layers.0.mlp.fc1.weight"].shape == (
        4096,
        1024,
    )


def wide_checkpoint(width: int) -> tuple[CheckpointForm, Architecture]:
    """One of 100 MB at `WIDE`, nearly all of it adapters."""
    llm = replace(SIZES.llm, width=width, mlp_width=8, layers=8)
    sizes = replace(SIZES, llm=llm, projection_widths=(8, 12, width))
    return replace(FORM, lora=replace(LORA, rank=width // 2)), architecture(sizes)


def new_checkpoint(file: Path, width: int, form_of_file: str) -> Path:
    form, sizes = wide_checkpoint(width)
    names = {name: name_in_checkpoint(name, wrapped=True, adapter=False) for name in trained_shapes(sizes, form)}
    held = {names[name]: torch.randn(shape) for name, shape in trained_shapes(sizes, form).items()}
    save_as(form_of_file, held, file)
    return file


def measured_checkpoint(folder: Path, width: int, form_of_file: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / "stage.pth"
    if not file.exists():
        new_checkpoint(file, width, form_of_file)
    form, sizes = wide_checkpoint(width)
    import_checkpoint(folder / "checkpoint", file, form, sizes)


def measured_export(folder: Path, width: int) -> None:
    if not (folder / "checkpoint").exists():
        measured_checkpoint(folder, width, "archive")
    export_published(folder / "checkpoint", folder / "exported.pth")


@pytest.mark.parametrize("form", ["archive", "legacy", "compressed"])
def test_a_checkpoint_is_imported_in_little_more_memory_than_it_has(tmp_path, form):
    new_checkpoint(tmp_path / "stage.pth", WIDE, form)
    stage, sizes = wide_checkpoint(WIDE)
    size = sum(4 * shape.numel() for shape in trained_shapes(sizes, stage).values())
    assert size > 90_000_000
    # How many pages of a mapped file stay is the system's affair, between 0.5 and 1.1 times the file.
    assert peak_of(measured_checkpoint, tmp_path, form) < 1.2 * size


def test_a_checkpoint_is_exported_in_little_more_memory_than_it_has(tmp_path):
    size = new_checkpoint(tmp_path / "stage.pth", WIDE, "archive").stat().st_size
    measured_checkpoint(tmp_path, WIDE, "archive")
    assert peak_of(measured_export, tmp_path) < 1.2 * size
    assert read_pickle(tmp_path / "exported.pth")["model"].keys() > read_pickle(tmp_path / "stage.pth").keys()
