"""The reference's model written out on plain tensors, by the names of its files. It shares no code with ours.

`w` is always a mapping of those names to tensors. Heads and depths are given: no tensor tells them.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

# Shape letters of this file: B batch, H = W side in pixels, P tokens of the tower, Q queries, S, T positions, N heads,
# K width of a head, V vocabulary; D and E any width.

Tensors = Mapping[str, Tensor]
PATCH = 14


def affine(w: Tensors, name: str, x: Tensor) -> Tensor:
    """A Linear, with LoRA beside it where `w` has some; its scale stands in `w` as well."""
    y = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    if f"{name}.lora_A.weight" in w:
        y = y + w["scale"] * (x @ w[f"{name}.lora_A.weight"].T @ w[f"{name}.lora_B.weight"].T)
    return y


def normed(w: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def attended(query_BSNK: Tensor, key_BTNK: Tensor, value_BTNK: Tensor, is_seen_BST: Tensor | None) -> Tensor:
    scores_BNST = torch.einsum("bsnk,btnk->bnst", query_BSNK, key_BTNK) / math.sqrt(query_BSNK.shape[-1])
    if is_seen_BST is not None:
        scores_BNST = scores_BNST.masked_fill(~is_seen_BST[:, None], -1e9)
    return torch.einsum("bnst,btnk->bsnk", scores_BNST.softmax(-1), value_BTNK).flatten(2)


def positions(w: Tensors, side: int) -> Tensor:
    """pos_embed for a picture of `side` pixels."""
    first, grid = w["pos_embed"][:, :1], w["pos_embed"][:, 1:]
    old, new = math.isqrt(grid.shape[1]), side // PATCH
    squared = grid.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    resized = functional.interpolate(squared, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([first, grid if old == new else resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def tower(w: Tensors, pixels_B3HW: Tensor, depth: int, heads: int) -> Tensor:
    """EVA's blocks, before the norm after them. vision_BPD."""
    patches = functional.conv2d(pixels_B3HW, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([w["cls_token"].expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + positions(w, pixels_B3HW.shape[-1])
    for block in (f"blocks.{number}" for number in range(depth)):
        query, value = w[f"{block}.attn.q_bias"], w[f"{block}.attn.v_bias"]
        fused = normed(w, f"{block}.norm1", x, 1e-6) @ w[f"{block}.attn.qkv.weight"].T
        fused = fused + torch.cat([query, torch.zeros_like(query), value])
        x = x + affine(w, f"{block}.attn.proj", attended(*fused.unflatten(-1, (3, heads, -1)).unbind(2), None))
        inner = affine(w, f"{block}.mlp.fc1", normed(w, f"{block}.norm2", x, 1e-6))
        x = x + affine(w, f"{block}.mlp.fc2", functional.gelu(inner))
    return x


def qformer(w: Tensors, seen_BPD: Tensor, layers: int, heads: int) -> Tensor:
    """queries_BQE; layers with cross-attention are those whose tensors are there."""
    x = normed(w, "Qformer.bert.embeddings.LayerNorm", w["query_tokens"].expand(len(seen_BPD), -1, -1), 1e-12)
    for layer in (f"Qformer.bert.encoder.layer.{number}" for number in range(layers)):
        for block in (f"{layer}.attention", f"{layer}.crossattention"):
            if f"{block}.self.key.weight" in w:
                read = seen_BPD if block.endswith("crossattention") else x
                query, key, value = (
                    affine(w, f"{block}.self.{part}", of).unflatten(-1, (heads, -1))
                    for part, of in (("query", x), ("key", read), ("value", read))
                )
                out = affine(w, f"{block}.output.dense", attended(query, key, value, None))
                x = normed(w, f"{block}.output.LayerNorm", out + x, 1e-12)
        inner = functional.gelu(affine(w, f"{layer}.intermediate_query.dense", x))
        x = normed(w, f"{layer}.output_query.LayerNorm", affine(w, f"{layer}.output_query.dense", inner) + x, 1e-12)
    return x


def rotated(x_BSNK: Tensor, position_BS: Tensor, turned: int) -> Tensor:
    """The first `turned` numbers of each head as `turned / 2` pairs, each turned by its own angle."""
    angle = position_BS[:, :, None, None] * 10_000.0 ** (-torch.arange(0, turned, 2) / turned)
    one, other = x_BSNK[..., : turned // 2], x_BSNK[..., turned // 2 : turned]
    pairs = (one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin())
    return torch.cat([*pairs, x_BSNK[..., turned:]], dim=-1)


def phi(
    w: Tensors, x_BSD: Tensor, mask_BS: Tensor, position_BS: Tensor, *, heads: int, turned: int
) -> tuple[list[Tensor], Tensor]:
    """What each layer gives, and logits_BSV."""
    S, found = x_BSD.shape[1], list[Tensor]()
    is_seen_BST = torch.ones(S, S, dtype=torch.bool).tril() & mask_BS[:, None].bool()
    while (layer := f"model.layers.{len(found)}") + ".mlp.fc1.weight" in w:
        read = normed(w, f"{layer}.input_layernorm", x_BSD, 1e-5)
        fused = affine(w, f"{layer}.self_attn.query_key_value", read).unflatten(-1, (heads, 3, -1))
        query, key = (
            rotated(normed(w, f"{layer}.self_attn.{name}_layernorm", fused[..., place, :], 1e-5), position_BS, turned)
            for place, name in enumerate("qk")
        )
        out = affine(w, f"{layer}.self_attn.dense", attended(query, key, fused[..., 2, :], is_seen_BST))
        root = (out.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        inner = affine(w, f"{layer}.mlp.fc1", read)
        inner = inner / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x_BSD = x_BSD + out / root * w[f"{layer}.post_layernorm.weight"] + affine(w, f"{layer}.mlp.fc2", inner)
        found.append(x_BSD)
    return found, affine(w, "lm_head", normed(w, "model.final_layernorm", x_BSD, 1e-5))
