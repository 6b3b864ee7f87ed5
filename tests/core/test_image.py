import io

import numpy as np
import pytest
from PIL import Image

from tinygptv_core import image
from tinygptv_core.image import decode, squash, squashed


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def levels(data: bytes, size: int) -> list[list[list[int]]]:
    """As (row, column, channel)."""
    return squashed([data], size)[0].transpose(1, 2, 0).tolist()


def test_the_whole_picture_is_squashed_to_the_square():
    wide = Image.new("RGB", (8, 2), "black")
    wide.paste("white", (4, 0, 8, 2))
    picture = levels(encoded(wide), 4)
    assert np.array(picture).shape == (4, 4, 3)
    assert picture[0][0] == [0, 0, 0]
    assert picture[3][3] == [255, 255, 255]


def test_what_is_transparent_lies_on_white():
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    assert levels(encoded(half.resize((2, 2))), 2)[0] == [[0, 0, 0], [255, 255, 255]]


def test_a_palette_with_a_transparent_colour_lies_on_white():
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([200, 0, 0])
    assert levels(encoded(palette, transparency=0), 1) == [[[255, 255, 255]]]


def test_sixteen_bits_a_pixel_are_scaled_not_cut():
    deep = Image.fromarray(np.array([[0x8000]], dtype=np.uint16))
    assert levels(encoded(deep), 1) == [[[128, 128, 128]]]
    assert levels(encoded(deep, transparency=0), 1) == [[[128, 128, 128]]]
    assert levels(encoded(Image.frombytes("I;16B", (1, 1), b"\x80\0"), "TIFF"), 1) == [[[128, 128, 128]]]


def test_grey_becomes_three_equal_channels():
    assert levels(encoded(Image.new("L", (1, 1), 77)), 1) == [[[77, 77, 77]]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_picture_that_is_cut_off_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ValueError, match="no picture which can be read"):
        squashed([data[: len(data) // 2]], 8)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="5 bytes that are no picture"):
        squashed([b"<html"], 8)


def test_a_format_whose_reader_runs_programs_is_refused():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="no picture which can be read"):
        decode(eps)


def test_a_picture_of_the_right_size_keeps_its_bytes():
    noise_HW3 = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert np.array_equal(levels(encoded(Image.fromarray(noise_HW3)), 9), noise_HW3)


def test_a_jpeg_has_pillows_pixels_whichever_decoder_there_is(monkeypatch):
    """Where simplejpeg is not installed both are Pillow; tests/benchmarks compares them on many kinds."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG", quality=90)
    found = [squashed([data], size) for size in (8, 40)]
    monkeypatch.setattr(image, "simplejpeg", None)
    assert all(np.array_equal(squashed([data], size)[0], one[0]) for size, one in zip((8, 40), found, strict=True))


def test_a_picture_goes_straight_into_its_place():
    squares_BHW3 = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    squash(encoded(Image.new("RGB", (4, 4), (9, 9, 9)), "JPEG"), squares_BHW3[1])
    assert squares_BHW3[:, 0, 0, 0].tolist() == [0, 9]
