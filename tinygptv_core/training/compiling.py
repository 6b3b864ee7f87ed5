"""torch's compiler for the layers of the model: an option, since it takes minutes before the first step."""

import os
import shutil
from importlib.util import find_spec

import torch

from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError

MOST_KINDS = 64
"""All layers are one program to torch, compiled anew for each kind of layer and batch: the tower's, the last one, one
sample or several, one target or several, padded or full. Beyond this many, where torch's own limit is 8, they would run
as they are."""


def compile_layers(model: TinyGPTV, device: str, *, backend: str = "inductor") -> None:
    """Let the layers be compiled when a kind of batch is first seen, once for all lengths of its samples.

    The language model's, and on a GPU the tower's: on a CPU its weights are prepacked, which is worth more. The
    numbers are the same to rounding, which may depend on the batch that was first seen: of a run that was stopped and
    goes on, too. Call it before `recompute_layers`, and once.

    Args:
        backend: what torch compiles with.
    """
    torch._dynamo.config.recompile_limit = MOST_KINDS
    for layer in (*model.llm.model.layers, *(model.vision.tower.encoder.layers if device == "cuda" else ())):
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)


def require_compiler(device: str) -> None:
    """Raise ConfigError where torch's compiler lacks what it makes programs of `device` with."""
    if device == "cuda" and find_spec("triton") is None:
        raise _missing("triton", "pip install triton", device)
    name, wanted = ("CC", ("gcc", "clang")) if device == "cuda" else ("CXX", ("g++",))
    asked = os.environ.get(name)
    if not any(map(shutil.which, [asked] if asked else wanted)):
        raise _missing(f"a compiler ({asked or ' or '.join(wanted)})", f"one that {name} names, or {wanted[0]}", device)


def _missing(what: str, how: str, device: str) -> ConfigError:
    return ConfigError(
        f"compile is asked for, and {what} is not here, which torch's compiler needs for {device}.\n"
        f"  to have it         {how}\n"
        "  to do without it   leave out --option compile=true"
    )
