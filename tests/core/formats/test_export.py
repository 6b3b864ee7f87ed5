"""What is exported is read again as it was: the same digests, and files that others can read."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, Blip2VisionConfig, Blip2VisionModel, BlipImageProcessor, GenerationConfig

from tests.core import brought, tiny
from tests.core.brought import LORA, SIZES
from tests.core.formats.test_weight_import import FORM, STAGE1
from tinygptv_core.answer import load_trained
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.checkpoint import Checkpoint, save_checkpoint
from tinygptv_core.formats.architectures import architecture
from tinygptv_core.formats.coverage import Coverage
from tinygptv_core.formats.export import export_folder, export_published
from tinygptv_core.formats.weight_import import (
    import_backbones,
    import_checkpoint,
    restore_backbones,
    restore_checkpoint,
)
from tinygptv_core.image import squashed
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.settings import SHIPPED
from tinygptv_core.tensor_files.weight_files import read_pickle
from tinygptv_core.tensor_files.weight_folders import UNTRAINED_NORMS
from tinygptv_core.trainable import trainable_parameters
from tinygptv_core.vision import normalised
from tinygptv_core.weights import load_backbones

LINEAGE = {"backbones/import": "b" * 64, "stage2/train": "c" * 64}


def digest(folder: Path) -> str:
    return digest_of(members_of(folder))


def restore(tmp_path: Path) -> tuple[Coverage, ...]:
    return (*restore_backbones(tmp_path / "b2", tmp_path / "hf"), restore_checkpoint(tmp_path / "c2", tmp_path / "hf"))


def imported(tmp_path: Path, *, lora: bool, dtype=torch.float32) -> tuple[Path, Path]:
    """(backbones, checkpoint), as they are imported."""
    published = tmp_path / "published"
    published.mkdir()
    import_backbones(tmp_path / "backbones", brought.all_published(published), architecture(SIZES), dtype)
    file = brought.checkpoint(published / "stage.pth", lora=lora)
    import_checkpoint(tmp_path / "checkpoint", file, FORM if lora else STAGE1, architecture(SIZES))
    return tmp_path / "backbones", tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("lora", "dtype", "shard_bytes"),
    [(True, torch.float32, 10**9), (False, torch.float16, 10**9), (True, torch.bfloat16, 3000)],
)
def test_an_exported_folder_is_read_back_bit_for_bit(tmp_path, lora, dtype, shard_bytes):
    backbones, checkpoint = imported(tmp_path, lora=lora, dtype=dtype)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE, shard_bytes)
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists() == (shard_bytes == 3000)
    coverages = restore(tmp_path)
    assert digest(tmp_path / "b2") == digest(backbones) and digest(tmp_path / "c2") == digest(checkpoint)
    assert [one.part for one in coverages] == ["vision", "qformer", "llm", "checkpoint"]
    export_folder(tmp_path / "b2", tmp_path / "c2", tmp_path / "again", LINEAGE, shard_bytes)
    assert digest(tmp_path / "again") == digest(tmp_path / "hf")


def test_the_shipped_backbones_survive_an_export(tmp_path):
    """They are in 16 bits, norms too, and their note of how they were made comes along."""
    model = TinyGPTV.from_backbones(load_backbones(SHIPPED / "nano", torch.float32), LORA, seed=1)
    tensors = {name: parameter.detach() for name, parameter in trainable_parameters(model).items()}
    save_checkpoint(tmp_path / "c", Checkpoint(form=FORM, tensors=tensors))
    export_folder(SHIPPED / "nano", tmp_path / "c", tmp_path / "hf", {})
    restore(tmp_path)
    assert digest(tmp_path / "b2") == digest(SHIPPED / "nano") and digest(tmp_path / "c2") == digest(tmp_path / "c")


def test_the_exported_tensors_are_those_that_the_model_computes_with(tmp_path):
    backbones, checkpoint = imported(tmp_path, lora=True)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE)
    exported = load_file(tmp_path / "hf" / "model.safetensors")
    model = load_trained(backbones, checkpoint, "float32", "cpu").model
    norm = "model.layers.1.input_layernorm.weight"
    assert torch.equal(exported[f"language_model.{norm}"], model.llm.get_parameter(norm))
    before = load_file(tmp_path / "hf" / UNTRAINED_NORMS)[f"language_model.{norm}"]
    assert torch.equal(before, brought.phi_model().get_parameter(norm))
    parameters = {name.replace(".default", "").replace(".base_layer", ""): p for name, p in model.named_parameters()}
    names = {
        "vision.tower.": "vision_model.",
        "qformer.query_tokens": "query_tokens",
        "qformer.qformer": "qformer",
        "llm.": "language_model.",
    }
    for name, parameter in parameters.items():
        old, new = next(((old, new) for old, new in names.items() if name.startswith(old)), ("", ""))
        assert torch.equal(exported[new + name.removeprefix(old)], parameter), name


def test_what_lies_beside_the_weights_is_read_by_transformers(tmp_path):
    backbones, checkpoint = imported(tmp_path, lora=True)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE)
    buffer = io.BytesIO()
    Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)).save(buffer, "PNG")
    pixels = BlipImageProcessor.from_pretrained(tmp_path / "hf")(Image.open(buffer), return_tensors="np")[
        "pixel_values"
    ]
    ours_B3HW = normalised(torch.from_numpy(squashed([buffer.getvalue()], 8)))
    torch.testing.assert_close(torch.as_tensor(pixels), ours_B3HW, rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer("a b #").input_ids == tiny.tokenizer()("a b #").input_ids
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == tiny.END
    generation = GenerationConfig.from_pretrained(tmp_path / "hf")
    assert generation.stop_strings == ["\n"] and generation.eos_token_id == tiny.END


def test_the_model_card_tells_the_lineage(tmp_path):
    backbones, checkpoint = imported(tmp_path, lora=True)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert f"| stage2/train | `{'c' * 64}` |" in card and f"| backbones/import | `{'b' * 64}` |" in card
    assert "# TinyGPT-V after stage2" in card


def test_what_transformers_own_classes_do_not_know_is_told(tmp_path):
    backbones, checkpoint = imported(tmp_path, lora=True)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE)
    told = json.loads((tmp_path / "hf" / "config.json").read_text())
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tower = Blip2VisionModel(Blip2VisionConfig(**told["vision_config"])).eval()
    tower.load_state_dict(
        {name.removeprefix("vision_model."): one for name, one in tensors.items() if "vision_model." in name}
    )
    tower.post_layernorm.eps = told["vision_post_layernorm_eps"]
    images_B3HW = torch.linspace(-1, 1, 3 * 8 * 8).sin().reshape(1, 3, 8, 8)
    ours_BND = load_backbones(backbones, torch.float32).vision(images_B3HW)
    with torch.no_grad():
        assert torch.equal(tower(images_B3HW).last_hidden_state, ours_BND)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "has the eps 1e-05" in card and "`post_layernorm`, eps 1e-06" in card


@pytest.mark.parametrize("lora", [True, False])
def test_the_originals_layout_is_written_and_read_back(tmp_path, lora):
    _, checkpoint = imported(tmp_path, lora=lora)
    export_published(checkpoint, tmp_path / "TinyGPT-V.pth")
    first, again = (read_pickle(path) for path in (tmp_path / "published" / "stage.pth", tmp_path / "TinyGPT-V.pth"))
    assert list(again) == ["model", "optimizer", "config", "scaler", "epoch"]
    assert again["model"].keys() == first["model"].keys()
    assert all(torch.equal(again["model"][name], first["model"][name]) for name in first["model"])
    form = FORM if lora else STAGE1
    import_checkpoint(tmp_path / "c2", tmp_path / "TinyGPT-V.pth", form, architecture(SIZES))
    assert digest(tmp_path / "c2") == digest(checkpoint)
    if lora:
        with pytest.raises(ConfigError, match="lora_alpha 6.0, the stage has 7"):
            other = replace(form, lora=replace(LORA, alpha=7))
            import_checkpoint(tmp_path / "c3", tmp_path / "TinyGPT-V.pth", other, architecture(SIZES))


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    folder = brought.phi_split(tmp_path / "phi")
    with pytest.raises(ConfigError, match="is no export of this project: its config.json says 'phi'"):
        restore_backbones(tmp_path / "b", folder)


@pytest.mark.parametrize("name", ["language_model.lm_head.bias", "projections.llama_proj.bias", "query_tokens"])
def test_an_export_that_lacks_a_tensor_is_refused(tmp_path, name):
    backbones, checkpoint = imported(tmp_path, lora=False)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE, shard_bytes=1)
    index = tmp_path / "hf" / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"].pop(name)
    index.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=f"1 missing: {name}"):
        restore(tmp_path)


EDITED = {
    "a part is gone": (lambda told: told.pop("vision_config"), "does not say 'vision_config'"),
    "widths that do not fit": (
        lambda told: told.update(projection_widths=[1, 2]),
        r"must go from 8 \(Q-Former\) to 16",
    ),
    "no widths": (lambda told: told.update(projection_widths=None), "is of no model"),
    "no number": (lambda told: told["text_config"].update(hidden_size="x"), "is of no model"),
    "another alpha": (lambda told: told["lora"].update(alpha=60), "config.json says of the adapters .*60.* stage.json"),
}


@pytest.mark.parametrize("case", EDITED)
def test_an_export_that_was_edited_is_refused(tmp_path, case):
    change, said = EDITED[case]
    backbones, checkpoint = imported(tmp_path, lora=True)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE)
    told = json.loads((tmp_path / "hf" / "config.json").read_text())
    change(told)
    (tmp_path / "hf" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=said):
        restore(tmp_path)


def test_an_export_without_its_tokenizer_is_refused(tmp_path):
    backbones, checkpoint = imported(tmp_path, lora=True)
    export_folder(backbones, checkpoint, tmp_path / "hf", LINEAGE)
    (tmp_path / "hf" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="hf has no tokenizer.json"):
        restore(tmp_path)
