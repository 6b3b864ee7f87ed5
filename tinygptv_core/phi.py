"""Phi with TinyGPT-V's three changes: norms on queries and keys, a norm after attention, one fused projection.

Everything but the attention block and the layer around it is transformers' own Phi.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import Cache, GenerationMixin, PhiConfig, PhiForCausalLM
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi.modeling_phi import (
    PhiAttention,
    PhiDecoderLayer,
    PhiRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from tinygptv_core.packing import Packing, attend_apart
from tinygptv_core.stage import Norm

# Shape letters of this file: B batch, S positions, K those that are wanted, D model width, N heads, H width of a head,
# R rotated part of H.

POST_NORM_EPS = 1e-6

NORM_MODULES: Mapping[Norm, tuple[str, ...]] = {
    "qk_norm": ("self_attn.q_layernorm", "self_attn.k_layernorm"),
    "rms_norm": ("post_layernorm",),
    "input_norm": ("input_layernorm",),
}
"""What a layer calls them."""

Places = tuple[Tensor, Tensor]
"""(row_K, position_K): some positions of a batch."""


def taken(of_BSD: Tensor, places: Places) -> Tensor:
    """of_KD: of what there is for every position, that of some."""
    row_K, position_K = places
    return of_BSD.flatten(0, 1).index_select(0, row_K * of_BSD.shape[1] + position_K)


def no_mask(embeds_BSD: Tensor) -> Tensor:
    """What stands for no mask at all: attention is causal, and that is all.

    transformers asks a mask of two dimensions, or the positions where there is none, what they hold, for which the
    host has to wait. One of four dimensions it hands to the layers as it is, so this is an empty one.
    """
    return embeds_BSD.new_empty(0, 0, 0, 0)


class PostRMSNorm(nn.Module):
    """Root-mean-square norm with a weight and no bias, computed in float32.

    transformers sets the weight to one because the class's name ends in RMSNorm; under another name it is left
    uninitialised.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """The same shape, in the wider of the input's and the weight's dtype."""
        normed_BSD = functional.rms_norm(hidden_BSD.float(), hidden_BSD.shape[-1:], eps=self.eps)
        return self.weight * normed_BSD.to(hidden_BSD.dtype)


class FusedAttention(PhiAttention):
    """Phi's attention with one projection for queries, keys and values.

    The rows of `query_key_value` are interleaved per head: [head][query, key, value][H]. It has to be
    one Linear because LoRA sits on it: three with a share each would give the same output but other
    gradients, since here all three read one low-rank A.
    """

    def __init__(self, config: PhiConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        if not config.qk_layernorm or config.num_key_value_heads != config.num_attention_heads:
            raise ValueError(
                f"qk_layernorm is {config.qk_layernorm} and there are {config.num_key_value_heads} key heads for "
                f"{config.num_attention_heads} heads; TinyGPT-V's Phi norms queries and keys, and has a key per head"
            )
        del self.q_proj, self.k_proj, self.v_proj
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.num_attention_heads * self.head_dim)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None = None,
        packing: Packing | None = None,
        wanted: Places | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As `PhiAttention.forward`: (attended_BSD, weights or None); of the `wanted` positions alone, attended_KD.

        With `packing` the one row holds several samples (`packing.py`). An empty mask is none (`no_mask`).
        """
        attention_mask = None if attention_mask is None or not attention_mask.numel() else attention_mask
        B, S, _ = hidden_states.shape
        fused_BSN3H = self.query_key_value(hidden_states).view(B, S, -1, 3, self.head_dim)
        query_BNSH, key_BNSH, value_BNSH = (part.transpose(1, 2) for part in fused_BSN3H.unbind(3))
        query_BNSH, key_BNSH = self._rotate(
            self.q_layernorm(query_BNSH), self.k_layernorm(key_BNSH), *position_embeddings
        )
        # Under autocast the norms gave float32; attention would cast it anyway, but the cache would keep it.
        query_BNSH, key_BNSH = query_BNSH.to(value_BNSH.dtype), key_BNSH.to(value_BNSH.dtype)
        if past_key_values is not None:
            key_BNSH, value_BNSH = past_key_values.update(key_BNSH, value_BNSH, self.layer_idx)
        parts = (query_BNSH, key_BNSH, value_BNSH)
        dropout = float(self.attention_dropout or 0.0) if self.training else 0.0
        if packing is None:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self._implementation(), eager_attention_forward)
            attended_BSNH, weights = attend(
                self, *parts, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
            )
        else:
            weights = None
            attended_BSNH = attend_apart(*parts, packing, dropout=dropout, scaling=self.scaling)
        attended_BSD = attended_BSNH.reshape(B, S, -1)
        return self.dense(attended_BSD if wanted is None else taken(attended_BSD, wanted)), weights

    def _implementation(self) -> str:
        return self.config._attn_implementation or "eager"

    def _rotate(self, query_BNSH: Tensor, key_BNSH: Tensor, cos_BSR: Tensor, sin_BSR: Tensor) -> tuple[Tensor, Tensor]:
        """Phi turns only the first R of each head's H values by their position."""
        R = self.rotary_ndims
        turned = apply_rotary_pos_emb(query_BNSH[..., :R], key_BNSH[..., :R], cos_BSR, sin_BSR)
        return (
            torch.cat((turned[0], query_BNSH[..., R:]), dim=-1),
            torch.cat((turned[1], key_BNSH[..., R:]), dim=-1),
        )


class FusedLayer(PhiDecoderLayer):
    """Phi's layer (attention and MLP side by side) with a norm on what attention gives."""

    def __init__(self, config: PhiConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = FusedAttention(config, layer_idx)
        self.is_last = layer_idx == config.num_hidden_layers - 1
        self.post_layernorm = PostRMSNorm(config.hidden_size, POST_NORM_EPS)
        if config.hidden_act == "gelu_new":
            # The same function in one kernel instead of eight, which also keep eight results for the gradient.
            self.mlp.activation_fn = ACT2FN["gelu_pytorch_tanh"]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] -- what attention takes is its own affair
        self, hidden_states: Tensor, wanted: Places | None = None, **kwargs: Any
    ) -> Tensor:
        """As `PhiDecoderLayer.forward`: hidden_BSD -> hidden_BSD. The MLP reads the input's norm, not attention.

        The last layer gives the `wanted` positions alone, hidden_KD: of the others only keys and values are read.
        """
        wanted = wanted if self.is_last else None
        normed = self.input_layernorm(hidden_states)
        attended = self.post_layernorm(self.self_attn(hidden_states=normed, wanted=wanted, **kwargs)[0])
        if wanted is not None:
            normed, hidden_states = taken(normed, wanted), taken(hidden_states, wanted)
        return self.resid_dropout(attended) + self.resid_dropout(self.mlp(normed)) + hidden_states


class PublishedBeams(GenerationMixin):
    """transformers' search by beams, which gives up on a row when the reference's does.

    A row is done when the worst of its finished beams is no worse than the best of all that could go on. The
    reference's transformers (4.36) counts a beam among these that has just finished, today's does not, and so may end
    before a better answer is found.
    """

    _best_B1: Tensor

    def _update_finished_beams(self, *args: Any, **known: Any) -> Any:
        self._best_B1 = known["topk_log_probs"].max(dim=1, keepdim=True).values
        return super()._update_finished_beams(*args, **known)

    def _check_early_stop_heuristic(  # pyright: ignore[reportIncompatibleMethodOverride] -- theirs needs no self
        self, *args: Any, **known: Any
    ) -> Any:
        return super()._check_early_stop_heuristic(*args, **known | {"running_beam_scores": self._best_B1})


class TinyPhi(PublishedBeams, PhiForCausalLM):
    """`PhiForCausalLM` whose layers are `FusedLayer`s. Source: TinyGPT-V, arXiv:2312.16862, section 3.1."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__(config)
        layers = (FusedLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers))
        self.model.layers = nn.ModuleList(layers)
        self.post_init()

    def ready_mask(self, embeds_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """The mask that transformers would make of `mask_BS` for positions seen at once, made without looking into it.

        Args:
            mask_BS: True where a position is attended to; None where all are.
        """
        made = create_causal_mask(
            config=self.model.config,
            inputs_embeds=embeds_BSD,
            attention_mask=mask_BS,
            past_key_values=None,
            allow_is_causal_skip=mask_BS is None,
        )
        return made if isinstance(made, Tensor) else no_mask(embeds_BSD)

    def leave_out(self, norms: Iterable[Norm]) -> None:
        """Let every layer do without `norms`: what went into one goes on as it is. What they were is forgotten."""
        for layer in self.model.layers:
            for norm in norms:
                for name in NORM_MODULES[norm]:
                    layer.set_submodule(name, nn.Identity())

    def recompute_layers(self) -> None:
        """Keep the input of each layer alone for the gradients, and compute the layer again on the way back.

        The numbers stay the same to the last bit, dropout among them. Call it once.
        """
        for layer in self.model.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    def rebuild_rotary(self) -> None:
        """Compute the rotary frequencies anew: they are in no file, so a model built on `meta` lacks them."""
        self.model.rotary_emb = PhiRotaryEmbedding(self.config)
