"""Pictures within a page."""

import io
from base64 import b64decode

import pytest
from PIL import Image

from tasks.demo import PAGE
from tasks.reporting.page import MAX_PICTURE_BYTES, environment, picture_url
from tests.tasks.web import picture


def shown(url):
    kind, _, told = url.removeprefix("data:").partition(";base64,")
    held = b64decode(told)
    return kind, held, Image.open(io.BytesIO(held))


def test_what_is_transparent_is_white_as_for_the_model():
    held = io.BytesIO()
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(held, "WEBP", lossless=True)
    kind, _, found = shown(picture_url(held.getvalue()))
    assert (kind, found.size) == ("image/jpeg", (40, 20))
    assert found.convert("RGB").getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_is_small_stays_as_it_is_and_what_is_large_does_not(kind):
    small, large = picture(kind), picture(kind, size=(600, 300))
    assert len(small) <= MAX_PICTURE_BYTES < len(large)
    assert shown(picture_url(small))[:2] == (f"image/{kind.lower()}", small)
    made, _, found = shown(picture_url(large))
    assert (made, found.size) == ("image/jpeg", (256, 128))


def test_a_format_that_is_read_nowhere_is_refused_here_too():
    held = io.BytesIO()
    Image.new("RGB", (4, 4)).save(held, "EPS")
    for data in (held.getvalue(), picture("PPM"), picture("JPEG")[:40]):
        with pytest.raises(ValueError, match="no picture which can be read"):
            picture_url(data)


def test_pages_show_pictures_the_way_up_that_the_model_sees():
    """A browser turns what its EXIF says is on its side; the model is given the pixels as they lie."""
    style, _, _ = environment().loader.get_source(environment(), "style.css.jinja")
    (frame,) = (line for line in style.splitlines() if line.startswith(".frame img { width"))
    (shown,) = (line for line in PAGE.splitlines() if line.startswith("img {"))
    assert all("image-orientation: none;" in line for line in (frame, shown))
