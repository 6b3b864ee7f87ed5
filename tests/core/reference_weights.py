"""The reference's names for its tensors, turned into ours: EVA-CLIP, BLIP-2's Q-Former, its Phi, its checkpoints.

Every function takes a published file's tensors and returns all tensors of one of our parts; what a
file holds beyond that is named here or refused.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

EVA_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
}
EVA_BLOCK_NAMES = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
NEW_NORMS = ("self_attn.q_layernorm", "self_attn.k_layernorm", "post_layernorm")


def vision_tensors(eva: Mapping[str, Tensor], blip2: Mapping[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    """The tower's tensors from EVA-CLIP's file and the norm after it from BLIP-2's.

    The published file holds a block more than the `num_blocks` that are used. Its queries and values have
    a bias, its keys have none: [q; 0; v].
    """
    out = {f"post_layernorm.{end}": blip2[f"ln_vision.{end}"] for end in ("weight", "bias")}
    for name, tensor in eva.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if block and int(block[1]) < num_blocks:
            out[f"encoder.layers.{block[1]}.{EVA_BLOCK_NAMES[block[2]]}.{block[3]}"] = tensor
        elif not name.startswith("blocks."):
            out[EVA_NAMES[name]] = tensor
    for index in range(num_blocks):
        query, value = (eva[f"blocks.{index}.attn.{part}_bias"] for part in "qv")
        out[f"encoder.layers.{index}.self_attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return out


def qformer_tensors(blip2: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Q-Former's tensors from BLIP-2's file. Its `t5_proj` led to another LLM and is left."""
    renamed = {
        name.replace("Qformer.bert.", "qformer.")
        .replace("qformer.embeddings.LayerNorm.", "qformer.layernorm.")
        .replace("attention.self.", "attention.attention."): tensor
        for name, tensor in blip2.items()
        if not name.startswith(("t5_proj.", "ln_vision.")) and name != "Qformer.bert.embeddings.position_ids"
    }
    return renamed


def llm_tensors(phi: Mapping[str, Tensor], num_layers: int, head_width: int, width: int) -> dict[str, Tensor]:
    """The LLM's tensors from a file with fused projections. Published Phi-2 lacks the added norms: they start at 1."""
    out = dict(phi)
    for index in range(num_layers):
        for norm in NEW_NORMS:
            size = width if norm == "post_layernorm" else head_width
            out.setdefault(f"model.layers.{index}.{norm}.weight", torch.ones(size))
            if norm != "post_layernorm":
                out.setdefault(f"model.layers.{index}.{norm}.bias", torch.zeros(size))
    return out


def trainable_name(name: str) -> str:
    """What a checkpoint of ours calls the reference's trained tensor `name`, with or without peft's wrapping."""
    if name.startswith("llama_proj"):
        return f"projections.{name}"
    inner = re.fullmatch(r"llama_model\.(?:base_model\.model\.)?(model\..+|lm_head\..+)", name)
    if inner is None:
        raise ValueError(f"{name} is no name of a tensor that the reference trains")
    return f"llm.{inner[1].replace('.default.', '.')}"


def trainable_tensors(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's `model` by our names. A buffer of the Q-Former, which it holds as well, is left."""
    return {trainable_name(name): model[name] for name in _trained(model)}


def _trained(names: Iterable[str]) -> list[str]:
    return [name for name in names if name != "Qformer.bert.embeddings.position_ids"]
