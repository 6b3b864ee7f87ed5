"""Which parameters training changes, and what a checkpoint calls them.

A parameter's name is its path in `TinyGPTV` without what an adapter's wrapping puts into it, so that
a norm has one name in a stage without adapters and in a stage with them:

    projections.llama_proj.weight
    llm.model.layers.0.self_attn.q_layernorm.weight
    llm.model.layers.0.self_attn.query_key_value.lora_A.weight
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from tinygptv_core.weights import NORMS, check_tensors

ADAPTER = "default"
"""peft's name for a model's only adapter."""


def require_gradients(model: nn.Module) -> None:
    """Freeze everything but what `trainable_parameters` names."""
    model.requires_grad_(False)
    for parameter in trainable_parameters(model).values():
        parameter.requires_grad_(True)


def trainable_parameters(model: nn.Module) -> dict[str, Parameter]:
    """Every parameter that a stage trains, by its name in a checkpoint, sorted.

    They are the projections' weights and biases; the weights, not the biases, of the LLM's norms (on
    input, queries, keys, attention's output, and the last); and the adapters where there are any.

    Args:
        model: a `TinyGPTV`, itself and not what wraps it for several processes.
    """
    projections, llm = model.get_submodule("projections"), model.get_submodule("llm")
    found = {f"projections.{name}": parameter for name, parameter in projections.named_parameters()}
    for prefix, module in llm.named_modules():
        if isinstance(module, NORMS):
            found[f"llm.{prefix}.weight"] = module.weight
    found |= {f"llm.{_plain_name(name)}": parameter for name, parameter in lora_parameters(llm).items()}
    return dict(sorted(found.items()))


def lora_parameters(llm: nn.Module) -> dict[str, Parameter]:
    """The adapters' matrices by peft's own names: `...query_key_value.lora_A.default.weight`."""
    return {name: parameter for name, parameter in llm.named_parameters() if is_lora(name)}


def is_lora(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def _plain_name(name: str) -> str:
    return name.replace(f".{ADAPTER}.", ".")


def load_trainable(model: nn.Module, tensors: Mapping[str, Tensor], *, new_lora: bool) -> None:
    """Set what is trained to what a checkpoint holds.

    Args:
        tensors: by the names of `trainable_parameters`.
        new_lora: the checkpoint comes from a stage without adapters and the model has them: they
            keep what they begin with, and every other tensor must be there all the same.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape; nothing has been changed then.
    """
    parameters = trainable_parameters(model)
    adapters = [name for name in parameters if is_lora(name)]
    if new_lora and not adapters:
        raise ValueError("new_lora is asked for, but the model has no adapters")
    loaded = {name: item for name, item in parameters.items() if not (new_lora and is_lora(name))}
    check_tensors({name: parameter.shape for name, parameter in loaded.items()}, tensors, "the checkpoint")
    with torch.no_grad():
        for name, parameter in loaded.items():
            parameter.copy_(tensors[name])


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What is trained, as an optimizer's two groups: matrices with decay; norms and biases without."""
    parameters = list(trainable_parameters(model).values())
    return [
        {"params": [item for item in parameters if item.ndim >= 2], "weight_decay": weight_decay},
        {"params": [item for item in parameters if item.ndim < 2], "weight_decay": 0.0},
    ]
