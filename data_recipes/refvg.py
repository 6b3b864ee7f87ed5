"""Phrases that mean one small region of a picture, and its box: Visual Genome.

As in the reference, regions of 16,384 square pixels and more are left out.
"""

from collections.abc import Mapping

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.columns import cleaned, list_of, mapping_of, number_of, region_box
from tinygptv_core.recipe import AnnotationLayout, Download, Join, Recipe, Row, Turn, UnfitError

MAX_PIXELS = 16_384


def regions(row: Row) -> list[Row]:
    """`{"regions": [{"phrase", "x", "y", "width", "height"}, ...]}` -> a record for each, beside its picture."""
    found = list_of(row["regions"], "regions")
    return [{**(one if isinstance(one, Mapping) else {}), "image": row["image"]} for one in found]


def picture_name(row: Row) -> str:
    """The last part of the picture's address."""
    return forms.file_name(mapping_of(row["image"], "image"), "url")


def turns(row: Row) -> tuple[Turn, ...]:
    """A region -> its phrase, cleaned, and its box."""
    sides = number_of(row, "width"), number_of(row, "height")
    if sides[0] * sides[1] >= MAX_PIXELS:
        raise UnfitError("large_region", f"{sides[0]} x {sides[1]} pixels, fewer than {MAX_PIXELS} wanted")
    image = mapping_of(row["image"], "image")
    box = region_box(row, number_of(image, "width"), number_of(image, "height"))
    return Turn("user", cleaned(row, "phrase")), Turn("assistant", box)


RECIPE = Recipe(
    version=2,
    source="visual_genome/region_descriptions.json",
    how="file",
    licence="CC-BY-4.0",
    citation="Krishna et al., 2016, arXiv:1602.07332",
    picture=None,
    turns=turns,
    prompts=prompts.REFER,
    expected_rows=5_408_689,
    files=(
        Download(
            path="visual_genome/region_descriptions.json",
            url="https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/region_descriptions.json.zip",
            direct=True,
            note="unpack it",
            megabytes=712,
        ),
        Download(
            path="visual_genome/image_data.json",
            url="https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/image_data.json.zip",
            direct=True,
            note="unpack it",
            megabytes=18,
        ),
    ),
    layout=AnnotationLayout(
        joins=(Join(file="visual_genome/image_data.json", on="id", by="image_id", column="image"),)
    ),
    picture_sets=pictures.VISUAL_GENOME,
    picture_name=picture_name,
    samples=regions,
)
