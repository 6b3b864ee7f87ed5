"""Decode a picture strictly: whole, of a known format, within limits, or with the reason why not."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from tinygptv_core.image import DECODER_ERRORS, FORMATS, on_white

# Pillow's name of a format -> the extension in a shard.
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
# How a format's files begin and end, where they have a mark for it.
MARKS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG\r\n", b"IEND\xaeB`\x82"), (b"GIF8", b";"))
MAX_PIXELS = 89_478_485
"""A picture of more pixels is taken for a decompression bomb. Pillow's own limit."""
_CUT = "the file ends before its end mark"


class PictureError(Exception):
    """Bytes that are no whole picture; reads as `reason: detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True)
class DecodedPicture:
    """A decoded picture (of an animation the first frame) in RGB, and the extension that its bytes deserve.

    Attributes:
        is_plain: a JPEG in colour, which every decoder reads alike.
    """

    image: Image.Image
    extension: str
    is_plain: bool


def decoded(data: bytes, max_bytes: int, *, to_scale: bool = True) -> DecodedPicture:
    """`data` as a picture, every byte of it read, and its colours those that the loader will see.

    Args:
        to_scale: without it a JPEG may come out at an eighth of its size, in less than half the time: enough for
            those who want to know whether it is whole.

    Raises:
        PictureError: `too_large`, `too_many_pixels`, `truncated` or `undecodable`.
    """
    if len(data) > max_bytes:
        raise PictureError("too_large", f"over {max_bytes} bytes")
    image = opened(data)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError("too_many_pixels", f"{width} x {height}, over {MAX_PIXELS}")
    name = image.format or ""
    if name in ("PNG", "GIF", "WEBP") and _is_cut(data):
        raise PictureError("truncated", _CUT)  # Pillow may paint over what such a file lacks, and say nothing
    is_plain = name == "JPEG" and image.mode == "RGB"
    if is_plain and not to_scale:
        image.draft(None, (1, 1))
    try:
        with warnings.catch_warnings(action="ignore"):
            image.load()
            colours = image if is_plain else on_white(image)
    except DECODER_ERRORS as error:
        reason = "truncated" if _is_cut(data) or "truncated" in str(error).lower() else "undecodable"
        raise PictureError(reason, str(error) or type(error).__name__) from error
    return DecodedPicture(image=colours, extension=EXTENSIONS[name], is_plain=is_plain)


def opened(data: bytes) -> Image.Image:
    """The picture that `data` begins as, its pixels not read yet.

    Raises:
        PictureError: `too_many_pixels` or `undecodable`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters is raised, or checked by the caller
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from error
    except DECODER_ERRORS as error:
        if _is_cut(data):
            raise PictureError("truncated", _CUT) from error
        raise PictureError("undecodable", f"{len(data)} bytes that are no picture") from error


def opens(data: bytes) -> bool:
    """Whether `data` begins as a picture does."""
    try:
        opened(data)
    except PictureError:
        return False
    return True


def _is_cut(data: bytes) -> bool:
    """Whether `data` begins as a format whose files have an end, and lacks that end."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP"[: len(data) - 8]:
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    end = next((end for begin, end in MARKS if data.startswith(begin)), b"")
    return not data.rstrip(b"\0\r\n ").endswith(end) and not (len(end) > 2 and end in data)
