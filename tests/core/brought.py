"""Files that people bring, at toy size and in their true layouts, all of the same random weights.

Each layout is written out by hand here, head by head where rows are mixed, and not through the product's table.
"""

import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration, PhiConfig, PhiForCausalLM

from tests.core import tiny
from tinygptv_core.formats.weight_import import WeightPaths
from tinygptv_core.sizes import LlmSizes, ModelSizes, QFormerSizes, TowerSizes
from tinygptv_core.stage import Lora

SIZES = ModelSizes(
    vision=TowerSizes(width=16, mlp_width=32, layers=2, heads=2, image_size=8, patch_size=4),
    qformer=QFormerSizes(width=8, mlp_width=16, layers=2, heads=2, cross_attention_every=2, queries=3),
    llm=LlmSizes(
        width=16,
        mlp_width=32,
        layers=2,
        heads=2,
        vocabulary=len(tiny.WORDS),
        positions=64,
        rotary_fraction=0.5,
        dropout=0.0,
        end_id=tiny.END,
    ),
    projection_widths=(8, 12, 16),
)
LORA = Lora(rank=3, alpha=6, dropout=0.05)
HEADS, HEAD_WIDTH, WIDTH = 2, 8, 16


def blip2_model() -> Blip2ForConditionalGeneration:
    """transformers' own BLIP-2, with a language model that nobody wants."""
    vision, qformer = SIZES.vision, SIZES.qformer
    config = Blip2Config(
        vision_config={
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        qformer_config={
            "hidden_size": qformer.width,
            "intermediate_size": qformer.mlp_width,
            "num_hidden_layers": qformer.layers,
            "num_attention_heads": qformer.heads,
            "encoder_hidden_size": vision.width,
        },
        text_config={"model_type": "t5", "vocab_size": 9, "d_model": 4, "num_layers": 1, "d_ff": 4, "num_heads": 1},
        num_query_tokens=qformer.queries,
    )
    model = Blip2ForConditionalGeneration(config)
    _draw(model)
    for block in model.vision_model.encoder.layers:
        block.self_attn.qkv.bias.data[vision.width : 2 * vision.width] = 0  # EVA-CLIP's keys have none
    return model


def phi_model() -> PhiForCausalLM:
    """transformers' own Phi, as published: without norms on queries and keys."""
    llm = SIZES.llm
    config = PhiConfig(
        vocab_size=llm.vocabulary,
        hidden_size=llm.width,
        intermediate_size=llm.mlp_width,
        num_hidden_layers=llm.layers,
        num_attention_heads=llm.heads,
        max_position_embeddings=llm.positions,
        bos_token_id=llm.end_id,
        eos_token_id=llm.end_id,
    )
    model = PhiForCausalLM(config)
    _draw(model)
    return model


def _draw(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)


def hf_blip2(folder: Path, shard_size: str = "5GB") -> Path:
    """As `save_pretrained` writes it; a small `shard_size` makes many files of it."""
    blip2_model().save_pretrained(folder, max_shard_size=shard_size)
    return folder


def eva(path: Path) -> Path:
    """`eva_vit_g.pth`: a block more than is used, biases on queries and values alone, and EVA-CLIP's own end."""
    torch.save(eva_tensors(), path)
    return path


def eva_tensors() -> dict[str, Tensor]:
    theirs = {name.removeprefix("vision_model."): item for name, item in blip2_model().state_dict().items()}
    out = {
        "cls_token": theirs["embeddings.class_embedding"],
        "pos_embed": theirs["embeddings.position_embedding"],
        "patch_embed.proj.weight": theirs["embeddings.patch_embedding.weight"],
        "patch_embed.proj.bias": theirs["embeddings.patch_embedding.bias"],
        "norm.weight": torch.ones(WIDTH),
        "head.weight": torch.ones(4, WIDTH),
    }
    for number, source in enumerate((0, 1, 1)):
        old, new = f"encoder.layers.{source}", f"blocks.{number}"
        for end in ("weight", "bias"):
            out[f"{new}.norm1.{end}"] = theirs[f"{old}.layer_norm1.{end}"]
            out[f"{new}.norm2.{end}"] = theirs[f"{old}.layer_norm2.{end}"]
            out[f"{new}.attn.proj.{end}"] = theirs[f"{old}.self_attn.projection.{end}"]
            out[f"{new}.mlp.fc1.{end}"] = theirs[f"{old}.mlp.fc1.{end}"]
            out[f"{new}.mlp.fc2.{end}"] = theirs[f"{old}.mlp.fc2.{end}"]
        out[f"{new}.attn.qkv.weight"] = theirs[f"{old}.self_attn.qkv.weight"]
        out[f"{new}.attn.q_bias"] = theirs[f"{old}.self_attn.qkv.bias"][:WIDTH].clone()
        out[f"{new}.attn.v_bias"] = theirs[f"{old}.self_attn.qkv.bias"][2 * WIDTH :].clone()
    return out


def blip2(path: Path) -> Path:
    """`blip2_pretrained_flant5xxl.pth`."""
    torch.save({"model": blip2_tensors()}, path)
    return path


def blip2_tensors() -> dict[str, Tensor]:
    theirs = blip2_model().state_dict()
    out = {
        "query_tokens": theirs["query_tokens"],
        "ln_vision.weight": theirs["vision_model.post_layernorm.weight"],
        "ln_vision.bias": theirs["vision_model.post_layernorm.bias"],
        "Qformer.bert.embeddings.position_ids": torch.arange(512)[None],
        "Qformer.bert.embeddings.LayerNorm.weight": theirs["qformer.layernorm.weight"],
        "Qformer.bert.embeddings.LayerNorm.bias": theirs["qformer.layernorm.bias"],
        "t5_proj.weight": torch.ones(4, 8),
        "t5_proj.bias": torch.ones(4),
    }
    for name, tensor in theirs.items():
        if name.startswith("qformer.encoder."):
            for block in ("attention", "crossattention"):
                name = name.replace(f".{block}.attention.", f".{block}.self.")
            out[f"Qformer.bert.{name.removeprefix('qformer.')}"] = tensor
    return out


def phi_split(folder: Path) -> Path:
    """Hugging Face's, since 4.37."""
    phi_model().save_pretrained(folder)
    return _with_tokenizer(folder)


def phi_fused(folder: Path) -> Path:
    """Hugging Face's of 4.36: rows [head][query, key, value][width of a head]; its config says less."""
    save_phi(folder, fused_tensors())
    return folder


def save_phi(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        '{"model_type": "phi", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, '
        '"num_attention_heads": 2, "partial_rotary_factor": 0.5, "rope_scaling": null, "rope_theta": 10000.0}'
    )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return _with_tokenizer(folder)


def fused_tensors() -> dict[str, Tensor]:
    def fuse(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = [part[h * HEAD_WIDTH : (h + 1) * HEAD_WIDTH] for h in range(HEADS) for part in (query, key, value)]
        return torch.cat(rows)

    return _with_queries_keys_and_values(fuse, "query_key_value")


def _with_queries_keys_and_values(fuse, name: str) -> dict[str, Tensor]:
    theirs = phi_model().state_dict()
    out = {old: tensor for old, tensor in theirs.items() if "_proj." not in old}
    for layer in range(SIZES.llm.layers):
        at = f"model.layers.{layer}.self_attn"
        for end in ("weight", "bias"):
            out[f"{at}.{name}.{end}"] = fuse(*[theirs[f"{at}.{letter}_proj.{end}"] for letter in "qkv"])
    return out


def stacked_tensors(*, counted: bool) -> dict[str, Tensor]:
    """Microsoft's first: all queries, then all keys, then all values; as a tree, or as one counted list."""
    out = {}
    for name, tensor in _with_queries_keys_and_values(lambda *parts: torch.cat(parts), "Wqkv").items():
        if name.startswith("model.layers."):
            number, _, inner = name.removeprefix("model.layers.").partition(".")
            inner = inner.replace("self_attn.Wqkv", "mixer.Wqkv").replace("self_attn.dense", "mixer.out_proj")
            inner = inner.replace("input_layernorm", "ln")
            out[f"layers.{int(number) + 1}.{inner}" if counted else f"transformer.h.{number}.{inner}"] = tensor
        else:
            part, _, end = name.rpartition(".")
            places = {
                "model.embed_tokens": ("layers.0.wte", "transformer.embd.wte"),
                "model.final_layernorm": ("layers.3.ln", "lm_head.ln"),
                "lm_head": ("layers.3.linear", "lm_head.linear"),
            }
            out[f"{places[part][not counted]}.{end}"] = tensor
    out["layers.1.mixer.rotary_emb.inv_freq" if counted else "transformer.h.0.mixer.rotary_emb.inv_freq"] = torch.ones(
        2
    )
    return out


def phi_stacked(folder: Path, *, counted: bool) -> Path:
    """Microsoft's first folder: a pickle in two shards, and its own words in config.json."""
    folder.mkdir(parents=True)
    tensors = stacked_tensors(counted=counted)
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    places = {name: file for file, held in shards.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": ' + str(places).replace("'", '"') + "}")
    (folder / "config.json").write_text(
        '{"model_type": "phi-msft", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 32, "rotary_dim": 4}'
    )
    return _with_tokenizer(folder)


def _with_tokenizer(folder: Path) -> Path:
    tiny.tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def all_published(folder: Path) -> WeightPaths:
    """The three parts in the files that TinyGPT-V's authors name."""
    return WeightPaths(
        vision=eva(folder / "eva_vit_g.pth"),
        qformer=blip2(folder / "blip2_pretrained_flant5xxl.pth"),
        llm=phi_fused(folder / "phi-2"),
    )


def trained(*, lora: bool) -> dict[str, Tensor]:
    """What a stage trained, by our names."""
    generator = torch.Generator().manual_seed(11)
    shapes: dict[str, tuple[int, ...]] = {
        "projections.llama_proj.weight": (12, 8),
        "projections.llama_proj.bias": (12,),
        "projections.llama_proj2.weight": (16, 12),
        "projections.llama_proj2.bias": (16,),
        "llm.model.final_layernorm.weight": (16,),
    }
    for layer in range(SIZES.llm.layers):
        at = f"llm.model.layers.{layer}"
        norms = {"self_attn.q_layernorm": 8, "self_attn.k_layernorm": 8, "input_layernorm": 16, "post_layernorm": 16}
        shapes |= {f"{at}.{norm}.weight": (width,) for norm, width in norms.items()}
        if lora:
            for linear, rows in (("query_key_value", 48), ("dense", 16)):
                shapes[f"{at}.self_attn.{linear}.lora_A.weight"] = (LORA.rank, 16)
                shapes[f"{at}.self_attn.{linear}.lora_B.weight"] = (rows, LORA.rank)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def checkpoint(path: Path, *, lora: bool, adapter: str = "") -> Path:
    """`TinyGPT-V_for_StageN.pth`, wrapped when there are adapters; `adapter` is what newer peft puts into names."""
    model = {"Qformer.bert.embeddings.position_ids": torch.arange(512)[None]}
    for name, tensor in trained(lora=lora).items():
        name = name.replace("projections.", "").replace(
            "llm.", "llama_model.base_model.model." if lora else "llama_model."
        )
        model[name.replace("lora_A.", f"lora_A.{adapter}").replace("lora_B.", f"lora_B.{adapter}")] = tensor
    told = {"model": {"arch": "minigpt4", "lora_alpha": 6, "image_size": 8}, "run": {"batch_size_train": 3}}
    state = {"param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}], "state": {0: {"exp_avg": torch.ones(3)}}}
    torch.save({"model": model, "optimizer": state, "config": told, "scaler": {"scale": 2.0}, "epoch": 3}, path)
    return path


def compress(path: Path, method: int = zipfile.ZIP_DEFLATED) -> None:
    """Have an archive of torch's as somebody else may pack it, so that it cannot be mapped."""
    plain = path.rename(path.with_suffix(".plain"))
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", method, compresslevel=1) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    plain.unlink()
