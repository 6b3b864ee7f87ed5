"""The reference at toy size: its weights as our model, and what its own code computed (tests/goldens).

Random weights and texts made for the purpose; float32, one CPU, no dropout. The cases hold the logits of target
positions alone.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig, PreTrainedTokenizerFast

from tests.core.reference_weights import llm_tensors, qformer_tensors, trainable_tensors, vision_tensors
from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.model import TinyGPTV
from tinygptv_core.stages import Lora
from tinygptv_core.trainable import load_trainable
from tinygptv_core.weights import Architecture, Backbones, fill, new_backbones

GOLDENS = Path(__file__).parents[1] / "goldens"
END = 330
"""`<|endoftext|>`: beginning, end and padding."""
LORA = Lora(rank=4, alpha=16, dropout=0.05)

ARCHITECTURE = Architecture(
    vision=Blip2VisionConfig(
        hidden_size=64,
        intermediate_size=int(64 * 4.3637),
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        layer_norm_eps=1e-6,
    ),
    qformer=Blip2QFormerConfig(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        encoder_hidden_size=64,
        layer_norm_eps=1e-12,
    ),
    num_queries=8,
    llm=PhiConfig(
        vocab_size=352,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        resid_pdrop=0.1,
        qk_layernorm=True,
        bos_token_id=END,
        eos_token_id=END,
    ),
    projection_widths=(48, 128, 64),
)


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of one file."""
    return load_file(GOLDENS / f"{name}.safetensors")


def told(name: str) -> dict:
    """What a case's JSON says."""
    return json.loads((GOLDENS / f"{name}.json").read_text())


def tokenizer() -> PreTrainedTokenizerFast:
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_file=str(GOLDENS / "weights" / "tokenizer.json"), **special)


def backbones() -> Backbones:
    """The reference's frozen parts."""
    made = new_backbones(ARCHITECTURE, tokenizer(), seed=0)
    eva, blip2 = golden("weights/eva_vit_g"), golden("weights/blip2_qformer")
    fill(made.vision.tower, vision_tensors(eva, blip2, num_blocks=3), torch.float32, "eva")
    fill(made.qformer, qformer_tensors(blip2), torch.float32, "blip2")
    fill(made.llm, llm_tensors(golden("weights/phi"), num_layers=3, head_width=16, width=64), torch.float32, "phi")
    return made


def model(stage: int) -> TinyGPTV:
    """The reference's model after `stage`, in eval mode; from stage 2 on with adapters."""
    made = TinyGPTV.from_backbones(backbones(), LORA if stage > 1 else None, seed=0)
    load_trainable(made, trainable_tensors(golden(f"checkpoints/stage{stage}")), new_lora=False)
    return made.eval()


def caption_batch(name: str) -> Batch:
    """The batch of a captioning case: [BOS][picture][caption and end], padded on the right."""
    captions_BK = torch.tensor(told(name)["embed_calls_token_ids"][0])
    start_B2 = torch.tensor([[END, 0]]).expand(len(captions_BK), -1)
    is_token_BK = captions_BK != END
    return Batch(
        images_B3HW=golden(name)["pixel_values"],
        ids_BT=torch.cat([start_B2, captions_BK], dim=1),
        labels_BT=torch.cat([torch.full_like(start_B2, IGNORED), captions_BK.where(is_token_BK, IGNORED)], dim=1),
        mask_BT=torch.cat([torch.ones_like(start_B2).bool(), is_token_BK], dim=1),
        slot_B=torch.ones(len(captions_BK), dtype=torch.int64),
        keys=tuple(str(row) for row in range(len(captions_BK))),
    )
