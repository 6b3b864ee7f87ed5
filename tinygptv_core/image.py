"""A picture's bytes -> what the vision tower sees. The same for training and for evaluation.

TinyGPT-V, arXiv:2312.16862, and the processor of its reference: the whole picture squashed to a
square, bicubic on bytes; no crop, no flip.
"""

import io
import struct

import numpy as np
from PIL import Image

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), dtype=np.float32)
STANDARD_DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), dtype=np.float32)


def preprocess(data: bytes, size: int) -> np.ndarray:
    """The picture in `data` (an encoded file) as float32 of shape (3, size, size), normalised.

    Raises:
        ValueError: it cannot be decoded as a picture, or is cut off.
    """
    bytes_HW3 = np.asarray(decode(data).resize((size, size), Image.Resampling.BICUBIC))
    normal_HW3 = (bytes_HW3.astype(np.float32) / 255 - MEAN) / STANDARD_DEVIATION
    return np.ascontiguousarray(normal_HW3.transpose(2, 0, 1))


def decode(data: bytes) -> Image.Image:
    """The picture in `data` as RGB; what is transparent lies on white.

    Raises:
        ValueError: it cannot be decoded as a picture, or is cut off.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            return _rgb(opened)
    # What Pillow raises for a broken file depends on its format.
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{len(data)} bytes that are no picture which can be read: {error}") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would cut at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
