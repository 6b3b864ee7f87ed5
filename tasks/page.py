"""What every page for people has in common: templates that escape, numbers in words, and pictures within the page."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tasks.quantities import duration, size

TEMPLATES = Path(__file__).parent / "templates"
MAX_PICTURE_BYTES, THUMBNAIL_PIXELS = 16_384, 256


def environment() -> Environment:
    """The templates. Whatever comes from data (captions, URLs, answers) is escaped by them."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(percent=percent, signed=signed, points=points, duration=duration, size=size, count=count)
    return found


def picture_url(held: bytes) -> str:
    """An encoded picture as a data URL, made smaller where it would weigh on the page."""
    with Image.open(io.BytesIO(held)) as picture:
        kind = Image.MIME.get(picture.format or "", "")
        if len(held) > MAX_PICTURE_BYTES or kind not in ("image/jpeg", "image/png"):
            picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
            smaller = io.BytesIO()
            picture.convert("RGB").save(smaller, "JPEG", quality=85)
            held, kind = smaller.getvalue(), "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(held).decode()}"


def percent(fraction: float) -> str:
    """0.8314 -> "83.1 %"."""
    return f"{100 * fraction:.1f} %"


def signed(fraction: float) -> str:
    """0.421 -> "+42.1"; in points of percent."""
    return f"{100 * fraction:+.1f}"


def points(fraction: float) -> str:
    """0.421 -> "42.1"; in points of percent."""
    return f"{100 * fraction:.1f}"


def count(number: int) -> str:
    """4000 -> "4,000"."""
    return f"{number:,}"
