"""Sizes made into transformers' own configurations, and read from them."""

from torch import nn
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig

from tinygptv_core.model import TinyGPTV
from tinygptv_core.sizes import PAPER_SIZES, ModelSizes, sizes_told
from tinygptv_core.weights import Architecture


def architecture(sizes: ModelSizes) -> Architecture:
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


def sizes_of(model: TinyGPTV) -> ModelSizes:
    """The sizes of a model that is there: what `architecture` made it of."""
    configs = (model.vision.config, model.qformer.config, model.llm.config)
    linears = [module for module in model.projections if isinstance(module, nn.Linear)]
    return sizes_told(
        *(config.to_dict() for config in configs),
        queries=model.qformer.query_tokens.shape[1],
        projection_widths=(linears[0].in_features, *(linear.out_features for linear in linears)),
    )


PAPER = architecture(PAPER_SIZES)
