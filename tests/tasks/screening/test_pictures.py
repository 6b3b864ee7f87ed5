"""Broken pictures of every kind: each ends as a picture or as an error that says why."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.screening.pictures import PictureError, decoded
from tests.tasks.web import palette_png, picture
from tinygptv_core.image import decode, squashed

REASONS = {"too_large", "too_many_pixels", "truncated", "undecodable"}
quickly = settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def whole_pictures() -> list[bytes]:
    noise_HW3 = np.random.default_rng(0).integers(0, 256, (19, 26, 3), dtype=np.uint8)
    colour, found = Image.fromarray(noise_HW3), []
    for image, kind, options in (
        (colour, "JPEG", {"quality": 80}),
        (colour, "JPEG", {"quality": 80, "progressive": True, "subsampling": 0, "comment": b"x" * 9}),
        (colour, "JPEG", {"restart_marker_blocks": 1, "dpi": (72, 72), "icc_profile": b"y" * 9}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "PNG", {}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour, "WEBP", {"quality": 60}),
        (colour, "WEBP", {"lossless": True}),
        (colour, "GIF", {}),
        (colour, "GIF", {"save_all": True, "append_images": [colour.rotate(90)]}),
        (colour, "BMP", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
    ):
        data = io.BytesIO()
        image.save(data, kind, **options)
        found.append(data.getvalue())
    return found


WHOLE = whole_pictures()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A whole picture with a few bytes changed, removed, put in or repeated, the header's more often than others."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(draw(st.sampled_from([40, 200, len(data)])) - 1, 0)))
        few = draw(st.binary(min_size=1, max_size=6))
        match draw(st.sampled_from(["change", "change", "remove", "put in", "repeat", "cut"])):
            case "change":
                data[place : place + len(few)] = few
            case "remove":
                del data[place : place + len(few)]
            case "put in":
                data[place:place] = few
            case "repeat":
                data[place:place] = data[place : place + 30]
            case "cut":
                del data[place:]
    return bytes(data)


@quickly
@given(mutated())
def test_fetch_takes_a_picture_or_says_why_not(data):
    try:
        picture = decoded(data, max_bytes=10_000)
    except PictureError as error:
        assert error.reason in REASONS and error.detail
    else:
        assert picture.image.size >= (1, 1)


@quickly
@given(mutated())
def test_the_loader_takes_a_picture_or_says_why_not(data):
    try:
        with warnings.catch_warnings(action="ignore"):
            bytes_3HW = squashed([data], 8)[0]
    except ValueError as error:
        assert str(error).startswith(f"{len(data)} bytes that are no picture which can be read: ")
    else:
        assert (bytes_3HW.dtype, bytes_3HW.shape) == (np.uint8, (3, 8, 8))


@quickly
@given(st.binary(max_size=200))
def test_what_is_no_picture_at_all_is_refused(data):
    with pytest.raises(PictureError):
        decoded(data, max_bytes=10_000)
    with pytest.raises(ValueError, match="no picture which can be read"):
        decode(data)


@quickly
@given(mutated())
def test_what_fetch_takes_the_loader_takes(data):
    try:
        decoded(data, max_bytes=10_000)
    except PictureError:
        return
    with warnings.catch_warnings(action="ignore"):
        assert decode(data).mode == "RGB"


@pytest.mark.parametrize("data", [palette_png(colours=0), palette_png(clear=300)])
def test_a_picture_whose_palette_gives_no_colours_is_undecodable(data):
    """Their pixels can be read, and what colour they are cannot be said."""
    with pytest.raises(PictureError, match="^undecodable: ."):
        decoded(data, max_bytes=10_000)
    with pytest.raises(ValueError, match="no picture which can be read"):
        decode(data)


@pytest.mark.parametrize("data", [picture("TIFF", mode="I;16B"), picture("PNG", mode="LA"), palette_png(clear=1)])
def test_fetch_and_loader_see_the_same_colours(data):
    assert np.array_equal(decoded(data, max_bytes=10_000).image, decode(data))
