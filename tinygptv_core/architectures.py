"""Sizes made into transformers' own configurations, and read from them."""

from typing import Any

from torch import nn
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig

from tinygptv_core.model import TinyGPTV
from tinygptv_core.sizes import PAPER_SIZES, LlmSizes, QFormerSizes, Sizes, TowerSizes
from tinygptv_core.weights import Architecture


def architecture(sizes: Sizes) -> Architecture:
    """The architecture of these sizes; what is no size (activations, eps) is as the published parts have it.

    EVA-CLIP: exact GELU, eps 1e-6. The Q-Former: BERT's, eps 1e-12. Phi-2: the tanh form of GELU, eps 1e-5, and
    TinyGPT-V's norms on queries and keys.
    """
    vision, qformer, llm = sizes.vision, sizes.qformer, sizes.llm
    return Architecture(
        vision=Blip2VisionConfig(
            hidden_size=vision.width,
            intermediate_size=vision.mlp_width,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        ),
        qformer=Blip2QFormerConfig(
            hidden_size=qformer.width,
            intermediate_size=qformer.mlp_width,
            num_hidden_layers=qformer.layers,
            num_attention_heads=qformer.heads,
            cross_attention_frequency=qformer.cross_attention_every,
            encoder_hidden_size=vision.width,
            layer_norm_eps=1e-12,
        ),
        num_queries=qformer.queries,
        llm=PhiConfig(
            vocab_size=llm.vocabulary,
            hidden_size=llm.width,
            intermediate_size=llm.mlp_width,
            num_hidden_layers=llm.layers,
            num_attention_heads=llm.heads,
            max_position_embeddings=llm.positions,
            resid_pdrop=llm.dropout,
            hidden_act="gelu_new",
            layer_norm_eps=1e-5,
            qk_layernorm=True,
            bos_token_id=llm.end_id,
            eos_token_id=llm.end_id,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": llm.rotary_fraction,
            },
        ),
        projection_widths=sizes.projection_widths,
    )


def sizes_of(model: TinyGPTV) -> Sizes:
    """The sizes of a model that is there: what `architecture` made it of."""
    vision, qformer, llm = model.vision.config, model.qformer.config, model.llm.config
    linears = [module for module in model.projections if isinstance(module, nn.Linear)]
    rotary: Any = llm.rope_parameters  # a form of its own for each way of turning
    end_id: Any = llm.eos_token_id  # one of them in every Phi
    return Sizes(
        vision=TowerSizes(
            width=vision.hidden_size,
            mlp_width=vision.intermediate_size,
            layers=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            image_size=model.vision.image_size,
            patch_size=model.vision.patch_size,
        ),
        qformer=QFormerSizes(
            width=qformer.hidden_size,
            mlp_width=qformer.intermediate_size,
            layers=qformer.num_hidden_layers,
            heads=qformer.num_attention_heads,
            cross_attention_every=qformer.cross_attention_frequency,
            queries=model.qformer.query_tokens.shape[1],
        ),
        llm=LlmSizes(
            width=llm.hidden_size,
            mlp_width=llm.intermediate_size,
            layers=llm.num_hidden_layers,
            heads=llm.num_attention_heads,
            vocabulary=llm.vocab_size,
            positions=llm.max_position_embeddings,
            rotary_fraction=rotary["partial_rotary_factor"],
            dropout=llm.resid_pdrop,
            end_id=end_id,
        ),
        projection_widths=(qformer.hidden_size, *(linear.out_features for linear in linears)),
    )


PAPER = architecture(PAPER_SIZES)
