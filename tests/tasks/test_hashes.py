"""The perceptual hash, on copies of a picture and on other pictures."""

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from tasks.hashes import HASHES_FILE, hash_of, hash_pictures, shapes_of
from tasks.tars import Sharing
from tests.tasks.shards import ALONE, encoded, picture, step_folders, write_shards

COPIES = {
    "half as large": lambda image: encoded(image.resize((192, 144))),
    "compressed hard": lambda image: encoded(image, quality=25),
    "as PNG": lambda image: encoded(image, "PNG"),
    "a little brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1)),
    "with less contrast": lambda image: encoded(ImageEnhance.Contrast(image).enhance(0.85)),
    "in grey": lambda image: encoded(image.convert("L")),
    "on a transparent ground": lambda image: encoded(image.convert("RGBA"), "PNG"),
}


def bits_apart(one, other):
    return (one ^ other).bit_count()


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_four_bits_apart_at_most(way):
    for seed in range(10):
        image = picture(seed, (384, 288))
        assert bits_apart(hash_of(encoded(image), None), hash_of(COPIES[way](image), None)) <= 4


def test_other_pictures_are_further_apart_than_any_setting_allows():
    values = [hash_of(encoded(picture(seed)), None) for seed in range(40)]
    assert min(bits_apart(a, b) for i, a in enumerate(values) for b in values[:i]) > 10


def test_what_has_no_hash():
    assert hash_of(b"no picture", None) is None
    assert hash_of(encoded(picture(1))[:600], None) is None  # it begins as one
    assert hash_of(encoded(Image.new("RGB", (64, 64), "red")), None) is None
    drawn = Image.new("L", (64, 64), 200)
    ImageDraw.Draw(drawn).rectangle((10, 10, 40, 40), fill=150)
    assert hash_of(encoded(drawn), None) is not None


@pytest.mark.parametrize("size", [(96, 48), (48, 96), (90, 31)])
def test_the_border_of_a_padded_picture_is_not_looked_at(tmp_path, size):
    """As img2dataset pads: the longer side becomes 96, and white stands on both sides of the shorter one."""
    image = picture(3, size)
    scaled = image.resize((round(size[0] * 96 / max(size)), round(size[1] * 96 / max(size))))
    square = Image.new("RGB", (96, 96), "white")
    square.paste(scaled, ((96 - scaled.width) // 2, (96 - scaled.height) // 2))
    plain, padded = encoded(image), encoded(square)
    assert bits_apart(hash_of(plain, None), hash_of(padded, size)) <= 4
    assert bits_apart(hash_of(plain, None), hash_of(padded, None)) > 10


def test_of_the_ledger_no_more_is_taken_than_a_tars_own_samples(tmp_path):
    """The keys of a segment's tar span the whole list, and most rows between them are other tars'."""
    pictures = [encoded(picture(0, (96, 72 + number))) for number in range(4)]
    shards = write_shards(tmp_path / "shards", [*pictures, None])
    keys = ["000000000", "000000003", "000000004"]
    assert shapes_of(shards / "ledger.parquet", keys) == {keys[0]: (96, 72), keys[1]: (96, 75)}


def test_the_table_has_every_sample_and_does_not_depend_on_who_made_it(tmp_path):
    pictures = [encoded(picture(0)), None, encoded(picture(1)), encoded(picture(2)), encoded(picture(0))]
    shards = write_shards(tmp_path / "shards", pictures)
    tables = []
    for number, sharing in enumerate((ALONE, Sharing(processes=2, least_bytes=0, ray=None))):
        place = step_folders(tmp_path / str(number))
        hash_pictures(shards, {}, bordered=True, folders=place, sharing=sharing)
        tables.append((place.out / HASHES_FILE).read_bytes())
    assert tables[0] == tables[1]
    table = pq.read_table(place.out / HASHES_FILE).to_pydict()
    assert table["key"] == [f"{number:09d}" for number in range(5)]
    assert table["split"] == ["asked", "other", "asked", "other", "asked"]
    assert table["hash"][1] is None and table["hash"][0] == table["hash"][4] and len(set(table["hash"])) == 4
