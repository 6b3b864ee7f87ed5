"""A model made into files for others: a folder as Hugging Face lays it out, or the original's `.pth`."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from tinygptv_core.checkpoint import Checkpoint, read_checkpoint
from tinygptv_core.checkpoint_form import norms_in_words
from tinygptv_core.formats.published import POSITION_IDS, checkpoint_config, name_in_checkpoint, name_in_export
from tinygptv_core.image import MEAN, STANDARD_DEVIATION
from tinygptv_core.phi import POST_NORM_EPS
from tinygptv_core.plain import ConfigError, plain
from tinygptv_core.tensor_files.weight_files import Stored, in_memory, open_weights, write_tensors
from tinygptv_core.tensor_files.weight_folders import UNTRAINED_NORMS
from tinygptv_core.trainable import is_lora
from tinygptv_core.vision import LAST_NORM_EPS
from tinygptv_core.weights import Architecture, read_architecture, read_tokenizer, told_by, write_json

PREFIXES = {"vision": "vision_model.", "qformer": "", "llm": "language_model."}
SHARD_BYTES = 5_000_000_000
BERT_POSITIONS = 512
"""Of the Q-Former's BERT; the original's checkpoints carry their numbers."""

FORMAT = {"format": "pt"}
"""What transformers looks for in the metadata of a safetensors file."""


def export_published(checkpoint: Path, file: Path) -> None:
    """Write a checkpoint as the original does: `{model, optimizer, config, scaler, epoch}`, by its names.

    With adapters the names are those of the language model wrapped by peft, without them they are un-wrapped.

    Raises:
        ConfigError: there is no checkpoint in that folder, it is damaged, or of a model without some norms.
    """
    found = _with_all_norms(checkpoint)
    wrapped = found.form.lora is not None
    model = {name_in_checkpoint(name, wrapped=wrapped, adapter=False): tensor for name, tensor in found.tensors.items()}
    model[POSITION_IDS] = torch.arange(BERT_POSITIONS)[None]
    state = {
        "model": model,
        "optimizer": {},
        "config": {"model": checkpoint_config(found.form)},
        "scaler": None,
        "epoch": 0,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)


def export_folder(
    backbones: Path, checkpoint: Path, folder: Path, lineage: Mapping[str, str], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a model as Hugging Face lays it out; `weight_import.restore_*` reads it back, bit for bit.

    The tensors are those that the model computes with. `untrained.safetensors` holds the norms that were trained as
    they were before, so that the backbones can be had again.

    Args:
        folder: empty, or not there.
        lineage: what the model was made from -> its digest, for the model card.
        shard_bytes: the most that one file of tensors holds, unless a single tensor is larger.

    Raises:
        ConfigError: a file of either is missing or damaged, or the model is one without some norms.
    """
    found = _with_all_norms(checkpoint)
    architecture = read_architecture(backbones)
    folder.mkdir(parents=True, exist_ok=True)
    frozen = {
        f"{prefix}{name}": stored
        for part, prefix in PREFIXES.items()
        for name, stored in open_weights(backbones / part / "model.safetensors").items()
    }
    trained = {name_in_export(name): in_memory(tensor) for name, tensor in found.tensors.items()}
    before = {name: frozen[name] for name in frozen if name in trained}
    write_tensors(folder / UNTRAINED_NORMS, before, FORMAT)
    _write_shards(folder, {**frozen, **trained}, shard_bytes)
    _write_settings(folder, found, architecture)
    _write_tokenizer(folder, backbones)
    shutil.copyfile(checkpoint / "stage.json", folder / "stage.json")
    shutil.copyfile(backbones / "backbones.json", folder / "backbones.json")
    (folder / "README.md").write_text(_card(found, lineage))


def _with_all_norms(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, unless it is one that whoever reads an export would take for another model."""
    found = read_checkpoint(folder)
    if found.form.without:
        raise ConfigError(
            f"the checkpoint in {folder} was trained {norms_in_words(found.form.without)}, which neither layout can "
            "say: others would put the norms back.\n  tinygptv ask and tinygptv run take it as it is"
        )
    return found


def _write_shards(folder: Path, tensors: Mapping[str, Stored], shard_bytes: int) -> None:
    shards: list[dict[str, Stored]] = [{}]
    held_bytes = 0
    for name in sorted(tensors):
        held_bytes += tensors[name].nbytes
        if shards[-1] and held_bytes > shard_bytes:
            shards.append({})
            held_bytes = tensors[name].nbytes
        shards[-1][name] = tensors[name]
    if len(shards) == 1:
        write_tensors(folder / "model.safetensors", tensors, FORMAT)
        return
    places: dict[str, str] = {}
    for number, held in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / file, held, FORMAT)
        places |= dict.fromkeys(held, file)
    total = sum(stored.nbytes for stored in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


def _write_settings(folder: Path, checkpoint: Checkpoint, architecture: Architecture) -> None:
    side = checkpoint.form.image_size
    write_json(
        folder / "config.json",
        {
            "model_type": "tinygptv",
            "architectures": ["TinyGPTV"],
            "vision_config": told_by(architecture.vision),
            "qformer_config": told_by(architecture.qformer),
            "text_config": told_by(architecture.llm),
            "num_query_tokens": architecture.num_queries,
            "projection_widths": list(architecture.projection_widths),
            # What transformers' own Blip2VisionModel and PhiForCausalLM do not know.
            "vision_post_layernorm_eps": LAST_NORM_EPS,
            "text_post_layernorm_eps": POST_NORM_EPS,
            "lora": plain(checkpoint.form.lora),
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "BlipImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": MEAN.tolist(),
            "image_std": STANDARD_DEVIATION.tolist(),
        },
    )
    end = architecture.llm.eos_token_id
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "do_sample": False,
            "stop_strings": [checkpoint.form.end_symbol],
        },
    )


def _write_tokenizer(folder: Path, backbones: Path) -> None:
    specials = read_tokenizer(backbones / "tokenizer").special_tokens_map
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **specials})
    shutil.copyfile(backbones / "tokenizer" / "tokenizer.json", folder / "tokenizer.json")


def _card(checkpoint: Checkpoint, lineage: Mapping[str, str]) -> str:
    """The model card: what it is, how a question is asked, and the digest of everything that is known of its making."""
    form = checkpoint.form
    adapters = sum(is_lora(name) for name in checkpoint.tensors)
    rows = [f"| {name} | `{digest}` |" for name, digest in sorted(lineage.items())]
    lines = [
        "---",
        "library_name: tinygptv",
        "pipeline_tag: image-text-to-text",
        "tags: [vision-language, phi-2, blip-2]",
        "---",
        "",
        f"# TinyGPT-V after {form.name}",
        "",
        "A vision tower, a Q-Former and a language model, all frozen, joined by two trained projections; the language",
        f"model's norms are trained as well, and {adapters} matrices of low-rank adapters (arXiv:2312.16862).",
        "",
        f"Pictures are squashed to {form.image_size} x {form.image_size} px. A question is asked as `{form.asks!r}`,",
        f"with `<Img><ImageHere></Img> ` before it; an answer ends at `{form.end_symbol!r}`.",
        "",
        "`tinygptv weights import model FOLDER` gives the backbones and the checkpoint again, bit for bit.",
        "Adapters are not merged; `untrained.safetensors` holds the trained norms as they were before training.",
        "",
        "With transformers' own classes, tower and Q-Former load as they are, but the tower's last norm",
        f"(`post_layernorm`) has the eps {LAST_NORM_EPS:g}, not that of its layers. The language model differs from",
        "`PhiForCausalLM`: one projection for queries, keys and values, interleaved by head (`query_key_value`), and a",
        f"root-mean-square norm (`post_layernorm`, eps {POST_NORM_EPS:g}) on what attention gives.",
        "",
        "## Lineage",
        "",
        "Each digest is the SHA-256 of the manifest of the folder that it names.",
        "",
        "| made from | digest |",
        "| --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"
