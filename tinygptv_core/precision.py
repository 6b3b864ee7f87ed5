"""A precision as torch has it."""

import torch

from tinygptv_core.compute import Precision


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of that name."""
    return getattr(torch, precision)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """That precision around float32 parameters; nothing where it is float32 itself."""
    dtype = dtype_of(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
