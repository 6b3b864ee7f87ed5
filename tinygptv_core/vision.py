"""The picture's encoder: a frozen ViT whose every token, the class token among them, goes to the Q-Former."""

from math import ceil

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from tinygptv_core.image import MEAN, STANDARD_DEVIATION

# Shape letters of this file: B batch, H = W side in pixels, R = 3 W numbers of a row, N tokens of the tower
# (patches + 1), D its width.

LAST_NORM_EPS = 1e-5
"""BLIP-2's norm after the tower is torch's own LayerNorm; transformers gives it the tower's eps, 1e-6."""

NUMBERS_AT_ONCE = 1 << 22
"""A CPU looks at as many pictures at once as make about so many numbers within an MLP: 16 MB in float32, which stay in
its cache. Fixed, and not an option, because the last bits of products may depend on their sizes."""


class VisionTower(nn.Module):
    """EVA-CLIP's ViT as transformers builds it, and BLIP-2's `ln_vision` as its last norm. Never trained."""

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = _side("image_size", config.image_size)
        self.patch_size = _side("patch_size", config.patch_size)
        self.tower = Blip2VisionModel(config)
        self.tower.post_layernorm.eps = LAST_NORM_EPS
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "VisionTower":
        """Stays in eval mode whatever the model around it does: the tower is frozen and has no dropout to switch."""
        return super().train(False)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """All tokens of the last layer after its norm.

        Args:
            images_B3HW: square pictures: bytes (`image.squashed`), which are normalised here, or else numbers
                that are so already. At a side other than the config's, the position embeddings are interpolated
                bicubically.

        Returns:
            vision_BND, N = (H / patch)^2 + 1, the class token first.

        Raises:
            ValueError: the pictures are not square, or their side is no multiple of the patch.
        """
        height, width = images_B3HW.shape[-2:]
        if height != width or height % self.patch_size:
            raise ValueError(
                f"the pictures are {height} x {width} px; the tower takes squares "
                f"whose side is a multiple of {self.patch_size} px"
            )
        if images_B3HW.device.type != "cpu":
            return self.encode(images_B3HW)
        num_numbers = len(images_B3HW) * ((height // self.patch_size) ** 2 + 1) * self.config.intermediate_size
        pieces = images_B3HW.chunk(max(1, ceil(num_numbers / NUMBERS_AT_ONCE)))
        return torch.cat([self.encode(piece) for piece in pieces])

    def encode(self, images_B3HW: Tensor) -> Tensor:
        """vision_BND of pictures as `forward` takes them, all at once."""
        if images_B3HW.dtype == torch.uint8:
            images_B3HW = normalised(images_B3HW).contiguous()
        # Without the flag a smaller picture would be given the first rows of the embeddings, without a word.
        interpolate = images_B3HW.shape[-1] != self.image_size
        out = self.tower(pixel_values=images_B3HW, interpolate_pos_encoding=interpolate)
        return torch.as_tensor(out.last_hidden_state)


def normalised(images_B3HW: Tensor) -> Tensor:
    """Pictures as bytes (uint8), divided by 255 and then normalised by channel: float32, on the same device.

    A row of pixels is one of numbers here, as the loader's lie in memory; and so do the result's.
    """
    width, device = images_B3HW.shape[-1], images_B3HW.device

    # Tensors, not numbers: CUDA multiplies by the reciprocal of a number, which has other last bits. Filled there:
    # the host would wait for a copy.
    def filled(value: float) -> Tensor:
        return torch.full((), float(value), device=device)

    byte = filled(255.0)
    mean, deviation = (torch.stack([*map(filled, values)]).repeat(width) for values in (MEAN, STANDARD_DEVIATION))
    rows_BHR = images_B3HW.permute(0, 2, 3, 1).flatten(2).float()
    return rows_BHR.div_(byte).sub_(mean).div_(deviation).unflatten(2, (width, 3)).permute(0, 3, 1, 2)


def _side(name: str, value: object) -> int:
    """A config's length in pixels, which transformers lets be a pair as well."""
    if not isinstance(value, int):
        raise ValueError(f"{name} of the tower is {value!r}; it must be one number, the side of a square in pixels")
    return value
