"""A picture's file -> the bytes of the square that the vision tower sees. The same for training and for evaluation.

TinyGPT-V, arXiv:2312.16862, and the processor of its reference: the whole picture squashed to a
square, bicubic on bytes; no crop, no flip. The tower normalises (`vision.py`), so that bytes travel to the device.
"""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

try:
    import simplejpeg
except ImportError:  # only faster: the pixels are Pillow's with and without
    simplejpeg = None

# Shape letters of this file: B pictures, H = W side in pixels.

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), dtype=np.float32)
STANDARD_DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), dtype=np.float32)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""In Pillow's names. Others are not read: some run programs (EPS)."""

DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What a decoder may raise when its input is broken or hostile; Pillow promises no less."""

JPEG_BEGINS = b"\xff\xd8"
SAME_COLOURS = ("YCbCr", "Gray", "RGB")
"""Kinds of JPEG of which both decoders make the same pixels."""


def squashed(pictures: Sequence[bytes], size: int) -> np.ndarray:
    """bytes_B3HW (uint8) of the pictures (encoded files). Raises as `squash` does."""
    return squash_all(pictures, np.empty((len(pictures), size, size, 3), dtype=np.uint8))


def squash_all(pictures: Sequence[bytes], bytes_BHW3: np.ndarray) -> np.ndarray:
    """bytes_B3HW, as `squashed` gives them, in the memory of `bytes_BHW3` (uint8)."""
    for data, bytes_HW3 in zip(pictures, bytes_BHW3, strict=True):
        squash(data, bytes_HW3)
    return bytes_BHW3.transpose(0, 3, 1, 2)


def squash(data: bytes, bytes_HW3: np.ndarray) -> None:
    """Fill the square `bytes_HW3` (uint8) with the picture in `data` (an encoded file), in RGB.

    Raises:
        ValueError: it cannot be decoded as a picture, or is cut off.
    """
    pixels = _jpeg(data, bytes_HW3)
    if pixels is bytes_HW3:
        return
    picture = decode(data) if pixels is None else Image.fromarray(pixels)
    bytes_HW3[:] = np.asarray(picture.resize(bytes_HW3.shape[1::-1], Image.Resampling.BICUBIC))


def decode(data: bytes) -> Image.Image:
    """The picture in `data` as RGB; what is transparent lies on white.

    Raises:
        ValueError: it cannot be decoded as a picture, or is cut off.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            opened.load()
            return on_white(opened)
    except DECODER_ERRORS as error:
        why = f"none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{len(data)} bytes that are no picture which can be read: {why}") from error


def on_white(picture: Image.Image) -> Image.Image:
    """A loaded picture in RGB, with white where it is transparent.

    Raises:
        One of DECODER_ERRORS: it holds what cannot be converted, such as a palette that is none.
    """
    if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would cut at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _jpeg(data: bytes, bytes_HW3: np.ndarray) -> np.ndarray | None:
    """The pixels of a JPEG as Pillow would decode them, in `bytes_HW3` if they fit; None leaves it to Pillow.

    What is not quite in order is left to Pillow too, so that it alone says what can be read.
    """
    if simplejpeg is None or not data.startswith(JPEG_BEGINS):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in SAME_COLOURS or int(height) * int(width) > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        fits = (height, width) == bytes_HW3.shape[:2]
        decoded = simplejpeg.decode_jpeg(data, "RGB", buffer=bytes_HW3 if fits else None)
    except ValueError:
        return None
    return bytes_HW3 if fits else decoded
