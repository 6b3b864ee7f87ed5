"""What every page for people has in common: templates that escape, numbers in words, and pictures within the page."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.quantities import counted, duration, known, loss, size
from tinygptv_core.image import decode

TEMPLATES = Path(__file__).parent / "templates"
MAX_PICTURE_BYTES, THUMBNAIL_PIXELS = 16_384, 256
SHOWN = {b"\xff\xd8": "image/jpeg", b"\x89PNG": "image/png"}
"""With what pictures begin that stay as they are, unless they are large."""


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
    found.filters.update(known=known, counted=counted)
    found.globals.update(loss=loss, duration=duration, size=size)
    return found


def picture_url(held: bytes) -> str:
    """An encoded picture as a data URL, decoded as for the model and made smaller where it would weigh on the page.

    Raises:
        ValueError: it cannot be decoded as a picture, or is cut off.
    """
    picture = decode(held)
    kind = next((kind for begin, kind in SHOWN.items() if held.startswith(begin)), None)
    if kind is None or len(held) > MAX_PICTURE_BYTES:
        picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        smaller = io.BytesIO()
        picture.save(smaller, "JPEG", quality=85)
        held, kind = smaller.getvalue(), "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(held).decode()}"


def percent(fraction: float) -> str:
    """0.8314 -> "83.1 %"."""
    return f"{100 * fraction:.1f} %"


def signed(fraction: float) -> str:
    """0.421 -> "+42.1"; in percentage points."""
    return f"{100 * fraction:+.1f}"


def points(fraction: float) -> str:
    """0.421 -> "42.1"; in percentage points."""
    return f"{100 * fraction:.1f}"


def count(number: int) -> str:
    """4000 -> "4,000"."""
    return f"{number:,}"
