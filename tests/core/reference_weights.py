"""The reference's tensors by our names, in memory: what `tinygptv_core.published` says, carried out at once."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig

from tinygptv_core import published
from tinygptv_core.coverage import Layout
from tinygptv_core.phi import TinyPhi
from tinygptv_core.qformer import QFormer
from tinygptv_core.vision import VisionTower

NEW_NORMS = ("self_attn.q_layernorm", "self_attn.k_layernorm", "post_layernorm")
TOY = {"hidden_size": 2, "intermediate_size": 2, "num_attention_heads": 1}
"""Only the names of modules of this width are looked at."""


def vision_tensors(eva: Mapping[str, Tensor], blip2: Mapping[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        tower = VisionTower(Blip2VisionConfig(num_hidden_layers=num_blocks, **TOY)).tower
    return _made(tower.state_dict(), {**eva, **blip2}, published.eva(num_blocks))


def qformer_tensors(blip2: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layers = {int(name.split(".")[4]) for name in blip2 if name.startswith("Qformer.bert.encoder.layer.")}
    crossed = {
        number for number in layers if f"Qformer.bert.encoder.layer.{number}.crossattention.self.key.bias" in blip2
    }
    every = min(crossed - {0}, default=len(layers))
    config = Blip2QFormerConfig(
        num_hidden_layers=len(layers), cross_attention_frequency=every, encoder_hidden_size=2, **TOY
    )
    with torch.device("meta"):
        names = QFormer(config, num_queries=1).state_dict()
    return _made(names, blip2, published.blip2())


def llm_tensors(phi: Mapping[str, Tensor], num_layers: int, head_width: int, width: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        names = TinyPhi(PhiConfig(vocab_size=2, num_hidden_layers=num_layers, qk_layernorm=True, **TOY)).state_dict()
    layout = published.phi(phi, num_layers, head_width)
    norms = {
        name: (torch.zeros if name.endswith(".bias") else torch.ones)(width if "post_" in name else head_width)
        for name in names.keys() - phi.keys()
        if any(f".{norm}." in name for norm in NEW_NORMS)
    }
    return {**_made(names.keys() - norms.keys(), phi, layout), **norms}


def trainable_name(name: str) -> str:
    """What we call the reference's trained tensor `name`, with or without peft's wrapping."""
    if name.startswith("llama_proj"):
        return f"projections.{name}"
    return "llm." + name.removeprefix(published.WRAPPED).removeprefix("llama_model.").replace(".default.", ".")


def trainable_tensors(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {trainable_name(name): tensor for name, tensor in model.items() if name != published.POSITION_IDS}


def _made(names: Iterable[str], files: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    origins = {name: layout.origin(name) for name in names}
    return {name: origin.join(*[files[source] for source in origin.names]) for name, origin in origins.items()}
