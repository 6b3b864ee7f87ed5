import io

import numpy as np
import pytest
from PIL import Image

from tinygptv_core.image import MEAN, STANDARD_DEVIATION, preprocess


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def levels(picture_3HW: np.ndarray) -> list[list[list[int]]]:
    """Back to bytes, as (row, column, channel)."""
    return np.rint((picture_3HW.transpose(1, 2, 0) * STANDARD_DEVIATION + MEAN) * 255).astype(int).tolist()


def test_a_value_is_divided_by_255_then_normalised_by_channel():
    picture_3HW = preprocess(encoded(Image.new("RGB", (1, 1), (255, 0, 51))), 1)
    assert picture_3HW.dtype == np.float32
    assert picture_3HW[:, 0, 0].tolist() == pytest.approx(
        [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711], abs=1e-6
    )


def test_the_whole_picture_is_squashed_to_the_square():
    wide = Image.new("RGB", (8, 2), "black")
    wide.paste("white", (4, 0, 8, 2))
    picture = levels(preprocess(encoded(wide), 4))
    assert np.array(picture).shape == (4, 4, 3)
    assert picture[0][0] == [0, 0, 0]
    assert picture[3][3] == [255, 255, 255]


def test_what_is_transparent_lies_on_white():
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    assert levels(preprocess(encoded(half.resize((2, 2))), 2))[0] == [[0, 0, 0], [255, 255, 255]]


def test_a_palette_with_a_transparent_colour_lies_on_white():
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([200, 0, 0])
    assert levels(preprocess(encoded(palette, transparency=0), 1)) == [[[255, 255, 255]]]


def test_sixteen_bits_a_pixel_are_scaled_not_cut():
    deep = Image.fromarray(np.array([[0x8000]], dtype=np.uint16))
    assert levels(preprocess(encoded(deep), 1)) == [[[128, 128, 128]]]


def test_grey_becomes_three_equal_channels():
    assert levels(preprocess(encoded(Image.new("L", (1, 1), 77)), 1)) == [[[77, 77, 77]]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_picture_that_is_cut_off_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ValueError, match="no picture which can be read"):
        preprocess(data[: len(data) // 2], 8)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="5 bytes that are no picture"):
        preprocess(b"<html", 8)
