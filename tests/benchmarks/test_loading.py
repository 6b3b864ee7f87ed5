"""That every way through the loader's benchmark gives the same pictures, whichever decoder; not how fast any is."""

import io
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.loading import CASES, GOALS, TOLERANCE, differences, ways_of, written
from benchmarks.model import CONVENTIONAL, DifferenceError
from tinygptv_core import image
from tinygptv_core.image import squashed


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("case", list(CASES))
def test_every_way_gives_the_originals_pictures(tmp_path, case):
    """70 of them, which are two batches; and they are not all alike."""
    ways = ways_of(written(tmp_path, CASES[case], 70), CASES[case].size)
    assert set(differences(ways)) == set(ways)
    first, second = ways[CONVENTIONAL]()
    assert (len(first), len(second)) == (64, 6)
    assert float((first[0] - second[0]).abs().max()) > 1


def test_a_way_with_other_pictures_is_refused(tmp_path):
    ways = ways_of(written(tmp_path, CASES["224 px shards"], 2), 224)
    wrong = ways | {"bytes": lambda: (images + 2 * TOLERANCE for images in ways[CONVENTIONAL]())}
    with pytest.raises(DifferenceError, match="bytes differs from the conventional way by 2"):
        differences(wrong)


def test_goals_name_what_there_is(tmp_path):
    ways = ways_of(written(tmp_path, CASES["224 px shards"], 1), 224)
    assert GOALS.keys() <= {f"{case}, {way}" for case in CASES for way in ways}


def kinds_of_jpeg() -> list[bytes]:
    """Colour models, samplings, scans, restarts, qualities and odd sides; with an orientation that none heeds."""
    found, random = [], np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for (height, width), mode, sampling, progressive, restart in product(
        [(1, 1), (5, 7), (16, 16), (17, 33), (40, 9)], ["RGB", "L", "CMYK"], [0, 1, 2], [False, True], [0, 2]
    ):
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        options = {"quality": 30 + 5 * sampling, "progressive": progressive, "restart_marker_blocks": restart}
        data = io.BytesIO()
        noise.save(data, "JPEG", subsampling=sampling, exif=exif, keep_rgb=(mode, sampling) == ("RGB", 0), **options)
        found.append(data.getvalue())
    return found


def broken_jpegs() -> list[bytes]:
    """Of each kind three, with a byte changed somewhere or the end cut off."""
    random, found = np.random.default_rng(1), []
    for number, whole in enumerate(kinds_of_jpeg() * 3):
        data, place = bytearray(whole), int(random.integers(2, len(whole)))
        data[place] ^= 1 << number % 8
        found.append(bytes(data if number % 4 else data[:place]))
    return found


def pixels_of(data: bytes, size: int) -> bytes | str:
    try:
        return squashed([data], size).tobytes()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("kinds", [kinds_of_jpeg, broken_jpegs])
def test_the_fast_decoder_gives_pillows_pixels_and_refusals(monkeypatch, kinds):
    """Of each kind as it is and squashed, in both places of the buffer that a picture may be decoded to."""
    pytest.importorskip("simplejpeg")
    pictures = [(data, size) for data in kinds() for size in (9, 16)]
    fast = [pixels_of(*picture) for picture in pictures]
    monkeypatch.setattr(image, "simplejpeg", None)
    assert fast == [pixels_of(*picture) for picture in pictures]


def test_the_fast_decoder_is_used(monkeypatch):
    """Else nothing would be compared above: three in five of the kinds are in colours that it reads alike."""
    simplejpeg = pytest.importorskip("simplejpeg")
    decoded = []
    monkeypatch.setattr(
        image.simplejpeg,
        "decode_jpeg",
        lambda *given, decode=simplejpeg.decode_jpeg, **options: decoded.append(1) or decode(*given, **options),
    )
    kinds = kinds_of_jpeg()
    squashed(kinds, 16)
    assert len(decoded) == len(kinds) * 2 // 3
