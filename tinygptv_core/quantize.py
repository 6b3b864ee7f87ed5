"""A trained model whose large Linears have their weights in 8 or 4 bit, to answer where there is little memory.

By bitsandbytes, which nothing else in the core needs.
"""

import logging
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.trainable import is_lora
from tinygptv_core.weights import Convert

Bits = Literal[8, 4]

LARGE = ("vision.tower.encoder.", "llm.model.layers.")
"""Where the Linears are that hold nearly all weights of the tower and of the language model."""

OUTLIER = 6.0
"""8 bit: a column of the input with a value as large as this is computed in 16 bit. Source: arXiv:2208.07339."""


def quantize(model: TinyGPTV, bits: Bits, device: str) -> None:
    """Give the large Linears weights of 8 or 4 bit, one after the other, and move the model to `device`.

    8 bit has a scale for each row, and takes the input in 8 bit too, but for outliers (LLM.int8(), arXiv:2208.07339);
    4 bit is NF4 in blocks of 64 (QLoRA, arXiv:2305.14314). Embeddings, norms, biases, the Q-Former, projections,
    adapters and `lm_head` stay as they are: they are small, or were trained. The model can only answer from then on.

    Args:
        model: on the CPU, loaded in the precision that it is to compute in.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    lower = lowering(bits, device)
    model.requires_grad_(False)
    for name, linear in large_linears(model).items():
        model.set_submodule(name, lower(name, linear))
    model.to(device).eval()


def lowering(bits: Bits, device: str) -> Convert:
    """What `load_backbones` takes to do the same while it reads, so that the model is never there as it was.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    library = _bitsandbytes()
    make = _in_8_bit if bits == 8 else _in_4_bit

    def lower(name: str, linear: nn.Linear) -> nn.Linear:
        if not name.startswith(LARGE):
            return linear
        low = make(library, linear)
        low.bias = linear.bias
        low.register_forward_pre_hook(partial(_as_autocast, linear.weight.dtype))
        # To move it is what quantizes it. A compiler takes more memory for each new shape than the weights.
        with torch.compiler.set_stance("force_eager"):
            return low.to(device).requires_grad_(False)

    return lower


def large_linears(model: TinyGPTV) -> dict[str, nn.Linear]:
    """What `quantize` changes, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.startswith(LARGE) and not is_lora(name)
    }


def _in_8_bit(library: Any, linear: nn.Linear) -> nn.Linear:
    made = library.Linear8bitLt(
        linear.in_features, linear.out_features, has_fp16_weights=False, threshold=OUTLIER, device="meta"
    )
    made.weight = library.Int8Params(linear.weight.data, requires_grad=False)
    return made


def _in_4_bit(library: Any, linear: nn.Linear) -> nn.Linear:
    made = library.Linear4bit(linear.in_features, linear.out_features, quant_type="nf4", device="meta")
    made.weight = library.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=made)
    # Its way for CPUs with AVX512-BF16 refuses a number of rows that is no multiple of its block's.
    made.support_avx512bf16_for_cpu = False
    return made


def _as_autocast(dtype: torch.dtype, _linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The input as autocast would have it, which does not know these Linears."""
    return tuple(item.to(dtype) for item in inputs)


def _bitsandbytes() -> Any:
    # It warns of casts that are meant, and of faster kernels for single processors.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        from bitsandbytes import nn as library
    except ImportError as error:
        raise ConfigError(
            f"8 and 4 bit need the package bitsandbytes, which cannot be imported: {error}\n"
            "  to install it   pip install 'tinygptv[low-resource]'"
        ) from None
    return library
