"""Sizes, stages, texts and random weights of the folder that `other_goldens.py` writes, in the reference's layouts."""

import math
from dataclasses import dataclass

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from tests.core.other_model import PATCH, Tensors

# Shape letters of this file: D any width, V vocabulary.

Shapes = dict[str, tuple[int, ...]]

SIZES = {
    "eva_embed_dim": 24,
    "eva_depth": 2,
    "eva_heads": 3,
    "src_image": 42,
    "q_hidden": 20,
    "q_layers": 3,
    "q_heads": 2,
    "q_inter": 28,
    "num_query_token": 3,
    "proj_mid": 32,
    "hidden": 36,
    "heads": 3,
}
PHI = {
    "vocab_size": 320,
    "hidden_size": SIZES["hidden"],
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": SIZES["heads"],
    "partial_rotary_factor": 0.5,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rope_scaling": None,
}
RANK, ALPHA, QUERIES = 3, 6, SIZES["num_query_token"]
PICTURE, ASKED, TARGET, UNSEEN = -1, "asked", "target", "unseen"
POSITION_IDS = {"Qformer.bert.embeddings.position_ids": torch.arange(8)[None]}

SLOT, BETWEEN = "<Img><ImageHere></Img> ", "!@#"
SENTENCES = (
    "a kite above the dunes",
    "Zwei Boote im Hafen, 42 m tief;  \t fr\u00fch",
    "the old man , by the window at night",
)
DRAWN = f"###Human: {SLOT}Tell what is there. ###Assistant: "


@dataclass(frozen=True, kw_only=True)
class OtherStage:
    """A stage: `most` ids follow the first question; `prompts` ask for a caption."""

    side: int
    end: str
    most: int
    rank: int = RANK
    template: str = ""
    prompts: tuple[str, ...] = ()

    def their_name(self, name: str) -> str:
        """What the reference calls a tensor of the language model, or a projection."""
        wrapped = "llama_model.base_model.model." if self.rank else "llama_model."
        return name if name.startswith("llama_proj") else wrapped + name

    def theirs(self, tensors: Tensors) -> dict[str, Tensor]:
        return {self.their_name(name): tensor for name, tensor in tensors.items()}


STAGES = {
    "stage1": OtherStage(side=28, rank=0, end="\n", most=9),
    "stage2": OtherStage(side=28, end="\n", most=32),
    "stage3": OtherStage(side=28, end="###", most=40, template="###Human: {} ###Assistant: ", prompts=(DRAWN,)),
    "stage4": OtherStage(side=70, end="###", most=14, template="[INST] {} [/INST]"),
}
SAMPLES = {
    "stage1_caption": {"answer": SENTENCES},
    "stage3_align": {"answer": SENTENCES[1:]},
    "stage4_conv": {
        "conv_q": [f"{SLOT}Where? {BETWEEN}And when? {BETWEEN}Why? ", f"{SLOT}[vqa] how many? "],
        "conv_a": [f"Here.{BETWEEN}{BETWEEN}At last, {SENTENCES[0]}", "two"],
        "connect_sym": [BETWEEN, BETWEEN],
    },
    "stage4_text_only": {"instruction_input": ["say it", SENTENCES[0]], "answer": [SENTENCES[2], "no"]},
}


def linear(name: str, go: int, come: int) -> Shapes:
    return {f"{name}.weight": (go, come), f"{name}.bias": (go,)}


def norms(width: int, *names: str) -> Shapes:
    return {f"{name}.{end}": (width,) for name in names for end in ("weight", "bias")}


def eva_shapes() -> Shapes:
    """A block more than is used."""
    D, P = SIZES["eva_embed_dim"], PATCH
    shapes: Shapes = {"cls_token": (1, 1, D), "pos_embed": (1, (SIZES["src_image"] // P) ** 2 + 1, D)}
    shapes |= {"patch_embed.proj.weight": (D, 3, P, P), "patch_embed.proj.bias": (D,)}
    for at in (f"blocks.{number}" for number in range(SIZES["eva_depth"] + 1)):
        shapes |= {f"{at}.attn.qkv.weight": (3 * D, D), f"{at}.attn.q_bias": (D,), f"{at}.attn.v_bias": (D,)}
        shapes |= norms(D, f"{at}.norm1", f"{at}.norm2") | linear(f"{at}.attn.proj", D, D)
        shapes |= linear(f"{at}.mlp.fc1", int(D * 4.3637), D) | linear(f"{at}.mlp.fc2", D, int(D * 4.3637))
    return shapes


def blip2_shapes() -> Shapes:
    """Cross-attention in every second layer; a tensor that leads to another language model."""
    D, inner = SIZES["q_hidden"], SIZES["q_inter"]
    shapes: Shapes = {"query_tokens": (1, QUERIES, D), "t5_proj.bias": (5,)}
    shapes |= norms(SIZES["eva_embed_dim"], "ln_vision") | norms(D, "Qformer.bert.embeddings.LayerNorm")
    for number in range(SIZES["q_layers"]):
        layer = f"Qformer.bert.encoder.layer.{number}"
        for name, width in (("attention", D), ("crossattention", SIZES["eva_embed_dim"]))[: 2 - number % 2]:
            at = f"{layer}.{name}"
            shapes |= linear(f"{at}.self.query", D, D) | linear(f"{at}.self.key", D, width)
            shapes |= linear(f"{at}.self.value", D, width) | linear(f"{at}.output.dense", D, D)
            shapes |= norms(D, f"{at}.output.LayerNorm")
        shapes |= linear(f"{layer}.intermediate_query.dense", inner, D)
        shapes |= linear(f"{layer}.output_query.dense", D, inner) | norms(D, f"{layer}.output_query.LayerNorm")
    return shapes


def phi_shapes() -> Shapes:
    D, inner, V = SIZES["hidden"], PHI["intermediate_size"], PHI["vocab_size"]
    shapes: Shapes = {"model.embed_tokens.weight": (V, D)} | linear("lm_head", V, D)
    shapes |= norms(D, "model.final_layernorm")
    for at in (f"model.layers.{number}" for number in range(PHI["num_hidden_layers"])):
        shapes |= linear(f"{at}.self_attn.query_key_value", 3 * D, D) | linear(f"{at}.self_attn.dense", D, D)
        shapes |= norms(D // SIZES["heads"], f"{at}.self_attn.q_layernorm", f"{at}.self_attn.k_layernorm")
        shapes |= linear(f"{at}.mlp.fc1", inner, D) | linear(f"{at}.mlp.fc2", D, inner)
        shapes |= norms(D, f"{at}.input_layernorm") | {f"{at}.post_layernorm.weight": (D,)}
    return shapes


def trained_shapes(rank: int) -> Shapes:
    """By the names inside the language model; the projections beside them."""
    phi = phi_shapes()
    shapes = {name: shape for name, shape in phi.items() if name.endswith("norm.weight")}
    for name in [name for name in phi if rank and name.endswith(("query_key_value.weight", "dense.weight"))]:
        at, (go, come) = name.removesuffix(".weight"), phi[name]
        shapes |= {f"{at}.lora_A.weight": (rank, come), f"{at}.lora_B.weight": (go, rank)}
    wide = SIZES["proj_mid"]
    return shapes | linear("llama_proj", wide, SIZES["q_hidden"]) | linear("llama_proj2", SIZES["hidden"], wide)


def drawn(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Norms' weights around 1, other vectors around 0, matrices that keep their input's size."""
    generator, found = torch.Generator().manual_seed(seed), dict[str, Tensor]()
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        around = float(name.endswith("weight"))
        found[name] = around + noise / 5 if len(shape) == 1 else 1.5 * noise / math.prod(shape[1:]) ** 0.5
    return found


def new_tokenizer() -> Tokenizer:
    """Bytes in pairs, as GPT-2's, with white space among its added tokens."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator([*SENTENCES, DRAWN, "[INST] [/INST]"], trainer)
    found.add_special_tokens(["<|endoftext|>"])
    found.add_tokens([AddedToken("  ", normalized=True), AddedToken("\t", normalized=True)])
    return found
