"""What published files call the tensors that we have: EVA-CLIP, BLIP-2, Phi-2 in three layouts, TinyGPT-V itself.

Every function goes from our name to theirs, so that what is missing is named as the file would name it, and
so that the same table serves for writing such a file. Sizes come from what is asked for, never from here.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tinygptv_core.checkpoint_form import CheckpointForm
from tinygptv_core.formats.coverage import TensorSource, WeightLayout
from tinygptv_core.plain import ConfigError

# Shape letters of this file: N heads, H width of a head, D = N * H model width.

NAMES_IN_EVA = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
    "post_layernorm.weight": "ln_vision.weight",
    "post_layernorm.bias": "ln_vision.bias",
}
PARTS_IN_EVA = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.qkv": "attn.qkv",
    "self_attn.projection": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
POSITION_IDS = "Qformer.bert.embeddings.position_ids"
"""A buffer of the original's Q-Former, 0, 1, 2, ...: in its files, and of no use."""

ANOTHER_BLIP2 = "the file of another BLIP-2; TinyGPT-V takes blip2_pretrained_flant5xxl.pth"
WRONG_SIZES = (
    "other sizes than this architecture's; the sizes are settings (sizes.*, or those of the preset's backbones)"
)


def eva(num_blocks: int) -> WeightLayout:
    """`eva_vit_g.pth`, with BLIP-2's `ln_vision` beside it.

    Its blocks have a bias on queries and on values and none on keys: [q; 0; v]. The public file holds one block
    more than the `num_blocks` that BLIP-2 takes of it, and EVA-CLIP's own last norm and head.
    """

    def origin(name: str) -> TensorSource:
        if name in NAMES_IN_EVA:
            return TensorSource(names=(NAMES_IN_EVA[name],))
        block, part, end = _matched(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if (part, end) == ("self_attn.qkv", "bias"):
            biases = tuple(f"blocks.{block}.attn.{letter}_bias" for letter in "qv")
            return TensorSource(names=biases, join=_with_no_key_bias)
        return TensorSource(names=(f"blocks.{block}.{PARTS_IN_EVA[part]}.{end}",))

    return WeightLayout(
        name="EVA-CLIP's eva_vit_g.pth and ln_vision of BLIP-2",
        origin=origin,
        left=(
            (rf"blocks\.{num_blocks}\..+", "BLIP-2 takes the blocks before the last"),
            (r"(norm|fc_norm|head|lm_head)\..+|mask_token", "EVA-CLIP's own end, which BLIP-2 replaces by ln_vision"),
        ),
        meanings=(
            (r"^ln_vision", f"the BLIP-2 file lacks its norm after the tower: {ANOTHER_BLIP2}"),
            (
                r"^(vision_model|visual|visual_encoder|text)\.",
                "another layout: a folder of Hugging Face, or a whole CLIP",
            ),
            (r"^(blocks|cls_token|pos_embed|patch_embed)", f"another ViT than EVA-CLIP's g/14, or {WRONG_SIZES}"),
        ),
    )


def _with_no_key_bias(query_D: Tensor, value_D: Tensor) -> Tensor:
    return torch.cat([query_D, torch.zeros_like(query_D), value_D])


def blip2() -> WeightLayout:
    """The Q-Former in `blip2_pretrained_flant5xxl.pth`."""

    def origin(name: str) -> TensorSource:
        inner = name.replace("qformer.layernorm.", "qformer.embeddings.LayerNorm.")
        inner = inner.replace("attention.attention.", "attention.self.")
        return TensorSource(names=(re.sub(r"^qformer\.", "Qformer.bert.", inner),))

    return WeightLayout(
        name="BLIP-2's own file",
        origin=origin,
        left=(
            (r"t5_proj\..+", "it led to another language model"),
            (r"ln_vision\..+", "read with the vision tower"),
            (re.escape(POSITION_IDS), "a buffer without use"),
        ),
        meanings=(
            (
                r"^(opt_proj|Qformer\.cls|vision_proj|text_proj|itm_head|temp|visual_encoder)\b|word_embeddings",
                ANOTHER_BLIP2,
            ),
            (r"^(Qformer\.bert|query_tokens)", f"{ANOTHER_BLIP2}, or {WRONG_SIZES}"),
        ),
    )


def hf_vision() -> WeightLayout:
    """The tower in a folder that transformers' BLIP-2 was saved to, or that this project exported."""
    return WeightLayout(
        name="Hugging Face's BLIP-2",
        origin=lambda name: TensorSource(names=(f"vision_model.{name}",)),
        left=((r"(qformer\..+|query_tokens)", "read with the Q-Former"), BEHIND_QFORMER),
        meanings=HF_MEANINGS,
    )


def hf_qformer() -> WeightLayout:
    """The Q-Former in such a folder. Its names are ours."""
    return WeightLayout(
        name="Hugging Face's BLIP-2",
        origin=lambda name: TensorSource(names=(name,)),
        left=((r"vision_model\..+", "read with the vision tower"), BEHIND_QFORMER),
        meanings=HF_MEANINGS,
    )


BEHIND_QFORMER = (r"(language_model|language_projection|projections)\..+", "what comes behind the Q-Former")
HF_MEANINGS = (
    (r"^(vision_projection|text_projection|itm_head|embeddings)\b", "a BLIP-2 for retrieval; take one with FlanT5-XXL"),
    (r"^(vision_model|qformer|query_tokens)", f"another BLIP-2 than the one with FlanT5-XXL, or {WRONG_SIZES}"),
)

UNTRAINED = "untrained."
"""In an exported folder: how the norms' names begin that have the values from before training."""


def exported_llm(names: Iterable[str]) -> WeightLayout:
    """The language model in a folder that this project exported; norms that were trained, as they were before."""
    there = set(names)

    def origin(name: str) -> TensorSource:
        before = f"{UNTRAINED}language_model.{name}"
        return TensorSource(names=(before if before in there else f"language_model.{name}",))

    others = r"(vision_model|qformer|projections)\..+|query_tokens"
    trained = "|".join(re.escape(name.removeprefix(UNTRAINED)) for name in there if name.startswith(UNTRAINED))
    return WeightLayout(
        name="an export of this project",
        origin=origin,
        left=((others, "read with the other parts"), (rf".+\.lora_[AB]\..+|{trained}", "read with the checkpoint")),
    )


def exported_checkpoint() -> WeightLayout:
    """What was trained, in such a folder."""
    frozen = rf"{re.escape(UNTRAINED)}.+|(vision_model|qformer|language_model)\..+|query_tokens"
    return WeightLayout(
        name="an export of this project",
        origin=lambda name: TensorSource(names=(name_in_export(name),)),
        left=((frozen, "read with the backbones"),),
    )


def name_in_export(name: str) -> str:
    """What an exported folder calls our trained tensor `name`."""
    return re.sub(r"^llm\.", "language_model.", name)


NEW_NORMS = r"\.(q_layernorm|k_layernorm|post_layernorm)\."
WRONG_PHI = (
    (r"lora_", "adapters were saved into it; Phi-2 as published is wanted"),
    (r"^model\.layers\.\d+\.(post_attention_layernorm|mlp\.(gate|up|down)_proj)", "another language model than Phi"),
    (NEW_NORMS, "some layers have TinyGPT-V's norms and some have none: a file that was put together from two"),
    (r".", f"the wrong revision of Phi-2, another Phi, or {WRONG_SIZES}"),
)
ROTARY = ((r".+\.rotary_emb\.(inv_freq|cos_cached|sin_cached)", "computed, not learned"),)


def phi(names: Iterable[str], num_layers: int, head_width: int) -> WeightLayout:
    """Phi-2, in the layout that `names` are in.

    * Hugging Face's since transformers 4.37: `q_proj`, `k_proj`, `v_proj` apart.
    * Hugging Face's of 4.36: one `query_key_value`, its rows per head: [head][query, key, value][H]. Ours as well.
    * Microsoft's first: `Wqkv`, its rows stacked: [query][head][H], then keys, then values. Its modules are
      `transformer.embd.wte`, `transformer.h.N.{ln,mixer,mlp}` and `lm_head.{ln,linear}`; in the files of
      Phi-1 and Phi-1.5, and in some of Phi-2, one counted list instead: `layers.0.wte`, the blocks from `layers.1`
      on, and `layers.(num_layers + 1).{ln,linear}`. transformers' converter turned it into the layout of 4.36.

    Raises:
        ConfigError: it is none of these.
    """
    there = set(names)
    if any(".self_attn.q_proj." in name for name in there):
        return _phi("Phi, queries, keys and values apart", _split(head_width))
    if any(".self_attn.query_key_value." in name for name in there):
        return _phi("Phi, fused per head", lambda name: TensorSource(names=(name,)))
    if any(name.startswith("transformer.h.") and ".mixer.Wqkv." in name for name in there):
        return _phi("Phi as Microsoft first had it, stacked", _stacked(_in_tree, head_width))
    if any(re.match(r"layers\.\d+\.mixer\.Wqkv\.", name) for name in there):
        return _phi("Phi as one counted list, stacked", _stacked(_in_list(num_layers), head_width))
    raise ConfigError(
        f"no layout of Phi-2 that is known: there is no self_attn.q_proj, query_key_value or mixer.Wqkv among "
        f"{len(there)} tensors such as {', '.join(sorted(there)[:3]) or 'none'}.\n"
        "  this usually means: another model, or the folder of an adapter; microsoft/phi-2 is wanted"
    )


def _phi(name: str, origin: Callable[[str], TensorSource]) -> WeightLayout:
    return WeightLayout(name=name, origin=origin, left=ROTARY, new=NEW_NORMS, meanings=WRONG_PHI)


def _split(head_width: int) -> Callable[[str], TensorSource]:
    def origin(name: str) -> TensorSource:
        if "query_key_value" not in name:
            return TensorSource(names=(name,))
        parts = tuple(name.replace("query_key_value", f"{letter}_proj") for letter in "qkv")
        return TensorSource(names=parts, join=_interleaved(head_width))

    return origin


def _stacked(theirs: Callable[[str], str], head_width: int) -> Callable[[str], TensorSource]:
    def origin(name: str) -> TensorSource:
        fused = "query_key_value" in name
        return (
            TensorSource(names=(theirs(name),), join=_interleaved(head_width))
            if fused
            else TensorSource(names=(theirs(name),))
        )

    return origin


PARTS_IN_MICROSOFT = {
    "input_layernorm": "ln",
    "self_attn.query_key_value": "mixer.Wqkv",
    "self_attn.dense": "mixer.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _in_microsoft(name: str) -> tuple[int, str] | None:
    """(block, name inside it); None for what is in no block. The added norms keep their names: no file has them."""
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    return (int(block[1]), f"{PARTS_IN_MICROSOFT.get(block[2], block[2])}.{block[3]}") if block else None


def _in_tree(name: str) -> str:
    block = _in_microsoft(name)
    if block:
        return f"transformer.h.{block[0]}.{block[1]}"
    return (
        name.replace("model.embed_tokens", "transformer.embd.wte")
        .replace("lm_head.", "lm_head.linear.")
        .replace("model.final_layernorm.", "lm_head.ln.")
    )


def _in_list(num_layers: int) -> Callable[[str], str]:
    def theirs(name: str) -> str:
        block = _in_microsoft(name)
        if block:
            return f"layers.{block[0] + 1}.{block[1]}"
        last = f"layers.{num_layers + 1}"
        return (
            name.replace("model.embed_tokens", "layers.0.wte")
            .replace("lm_head.", f"{last}.linear.")
            .replace("model.final_layernorm.", f"{last}.ln.")
        )

    return theirs


def _interleaved(head_width: int) -> Callable[..., Tensor]:
    """Rows [q; k; v], in one tensor or in three, to rows [head][q, k, v][H]."""

    def join(*parts: Tensor) -> Tensor:
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
        by_head = stacked.view(3, -1, head_width, *stacked.shape[1:]).transpose(0, 1)
        return by_head.reshape(stacked.shape)

    return join


CONFIG_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "n_inner": "intermediate_size",
    "activation_function": "hidden_act",
}
"""What Microsoft's first config.json calls what transformers' has."""


def flat_config(told: Mapping[str, object]) -> dict[str, object]:
    """A config.json in any of the layouts, by transformers' names, what concerns rotary embeddings at the top."""
    named = {CONFIG_NAMES.get(name, name): value for name, value in told.items() if value is not None}
    width, heads, turned = (told.get(name) for name in ("n_embd", "n_head", "rotary_dim"))
    if isinstance(width, int) and isinstance(heads, int) and isinstance(turned, int):
        named["partial_rotary_factor"] = turned * heads / width
    if isinstance(width, int):
        named.setdefault("intermediate_size", 4 * width)
    rotary = named.get("rope_parameters")
    return {**rotary, **named} if isinstance(rotary, Mapping) else named


WRAPPED = "llama_model.base_model.model."
"""How the names of the language model begin once peft has wrapped it."""

WRONG_STAGE = (
    (
        r"lora_[AB].*instead of",
        "adapters of another rank than the stage's; set its lora.rank to the file's, as in --set stage2.lora.rank=64",
    ),
    (
        r"lora_[AB]",
        "a checkpoint of another stage, with or without adapters. The published stage 1 has them, by a default "
        "value that its authors call a mistake: take it with "
        '--set \'stage1.lora={"rank": 64, "alpha": 16, "dropout": 0.05}\'',
    ),
    (r"^llama_proj", "a checkpoint of another model, as MiniGPT-4, which has one projection"),
    (r"layernorm", f"a checkpoint on another language model, or {WRONG_SIZES}"),
    (r"^(optimizer|scaler|config|epoch)$", "the outer part of a checkpoint, without its tensors"),
)


def checkpoint(names: Iterable[str]) -> WeightLayout:
    """`TinyGPT-V_for_StageN.pth`: un-wrapped names, or peft's with or without the adapter's name."""
    there = list(names)
    wrapped = any(name.startswith(WRAPPED) for name in there)
    adapter = any(".default." in name for name in there)

    return WeightLayout(
        name=f"TinyGPT-V's checkpoint, {'wrapped by peft' if wrapped else 'un-wrapped'}",
        origin=lambda name: TensorSource(names=(name_in_checkpoint(name, wrapped=wrapped, adapter=adapter),)),
        left=((re.escape(POSITION_IDS), "a buffer without use"),),
        meanings=WRONG_STAGE,
    )


def name_in_checkpoint(name: str, *, wrapped: bool, adapter: bool) -> str:
    """What the original's checkpoint calls our trained tensor `name` (`tinygptv_core/trainable.py`).

    Args:
        wrapped: peft has wrapped the language model, as from stage 2 on.
        adapter: peft is one that also names the adapter (`lora_A.default.weight`).
    """
    if name.startswith("projections."):
        return name.removeprefix("projections.")
    inner = name.removeprefix("llm.")
    if adapter:
        inner = re.sub(r"\.(lora_[AB])\.", r".\1.default.", inner)
    return f"{WRAPPED if wrapped else 'llama_model.'}{inner}"


TOLD_BY_CHECKPOINT = {
    "image_size": "image_size",
    "end_sym": "end_symbol",
    "prompt_template": "prompt_template",
    "lora_alpha": "lora.alpha",
}
"""What the configuration in a checkpoint calls what no tensor tells -> our stage's setting."""


def checkpoint_config(form: CheckpointForm) -> dict[str, Any]:
    """What the original's configuration, under `model`, says of a checkpoint of this form."""
    lora = form.lora
    return {
        "image_size": form.image_size,
        "end_sym": form.end_symbol,
        "prompt_template": form.prompt_template or "",
        "lora_r": lora.rank if lora else 0,
        **({"lora_alpha": lora.alpha, "lora_dropout": lora.dropout} if lora else {}),
    }


def _matched(pattern: str, name: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, name)
    if found is None:
        raise ValueError(f"{name} is no name of ours")
    return found.groups()
