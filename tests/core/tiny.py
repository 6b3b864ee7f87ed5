"""Random backbones of width 16 and batches for them: what the model's tests need, in milliseconds."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig, PreTrainedTokenizerFast

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.weights import Architecture, Backbones, new_backbones

WORDS = ("<end>", "<slot>", "a", "b", "c", "d", "e", "#")
END, SLOT = 0, 1

ARCHITECTURE = Architecture(
    vision=Blip2VisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        initializer_range=0.2,
    ),
    qformer=Blip2QFormerConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        encoder_hidden_size=16,
        initializer_range=0.2,
    ),
    num_queries=3,
    llm=PhiConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        resid_pdrop=0.0,
        qk_layernorm=True,
        initializer_range=0.2,
        bos_token_id=END,
        eos_token_id=END,
    ),
    projection_widths=(8, 12, 16),
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token: `WORDS` are all there are."""
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<end>"))
    words.pre_tokenizer = WhitespaceSplit()
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<end>")
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def backbones(seed: int, *, dropout: float = 0.0) -> Backbones:
    llm = PhiConfig.from_dict({**ARCHITECTURE.llm.to_dict(), "resid_pdrop": dropout})
    return new_backbones(replace(ARCHITECTURE, llm=llm), tokenizer(), seed)


def infinite(_module: nn.Module, _inputs: object, output: Tensor) -> None:
    """As a forward hook: the gradient of the output becomes infinite."""
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient * float("inf"))


def batch() -> Batch:
    """Two pictures with captions of three and one tokens: [BOS][picture][caption], padded on the right."""
    return Batch(
        images_B3HW=torch.linspace(-1, 1, 2 * 3 * 8 * 8).sin().mul(3).reshape(2, 3, 8, 8),
        ids_BT=torch.tensor([[END, SLOT, 2, 3, 4], [END, SLOT, 5, END, END]]),
        labels_BT=torch.tensor([[IGNORED, IGNORED, 2, 3, 4], [IGNORED, IGNORED, 5, IGNORED, IGNORED]]),
        mask_BT=torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        slot_B=torch.tensor([1, 1]),
        keys=("000000000", "000000001"),
    )
