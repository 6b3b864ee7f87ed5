"""docs/data.md holds every data set and every set of pictures, with what their recipes say."""

import importlib
import pkgutil
from pathlib import Path

import data_recipes
from tests.recipes.records import CASES
from tinygptv_core.presets import PAPER, SMALL
from tinygptv_core.recipe import PictureSet, Recipe

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
NAMES = sorted(
    (m.name for m in pkgutil.iter_modules(data_recipes.__path__) if not m.ispkg and not m.name.startswith("scenes_")),
    key=str.lower,
)
FORMS = {"json": "JSON array", "jsonl": "JSON lines", "p": "pickle", "instruct": "JSON array", "list": "any list"}


def recipe(name: str) -> Recipe:
    return importlib.import_module(f"data_recipes.{name}").RECIPE


def file_form(found: Recipe) -> str:
    """What its file is, as its test has it."""
    own = FORMS[found.source.rpartition(".")[2]]
    if found.layout.keyed:
        own = "JSON object by id"
    elif found.layout.at:
        own = f"JSON, in `{found.layout.at}`"
    joined = sorted({join.file.rpartition("/")[2] for join in found.layout.joins})
    return f"{own}, joined with `{'`, `'.join(joined)}`" if joined else own


def how_to_get_it(found: Recipe) -> str:
    if not found.files:
        return "by an option"
    how = "URL" if all(file.direct for file in found.files) else "by hand"
    is_zipped = any(is_zip(file.url) and not is_zip(file.path) for file in found.files)
    return f"{'URL of a zip' if how == 'URL' and is_zipped else how}, `{found.source}`"


def is_zip(name: str) -> bool:
    return name.endswith(".zip")


def dataset_row(name: str) -> str:
    found = recipe(name)
    rows = f"{found.expected_rows:,}" if found.expected_rows else "not known"
    shown = ", ".join(f"`{pictures.name}`" for pictures in found.picture_sets)
    pictures = shown or ("at URLs" if found.how == "url" else "none")
    link = f"[{name}](../data_recipes/{name}.py)"
    return f"| {link} | {rows} | {found.licence} | {how_to_get_it(found)} | {file_form(found)} | {pictures} |"


def picture_row(pictures: PictureSet) -> str:
    archive = pictures.archive
    count = f"{pictures.pictures:,}" if pictures.pictures else "not known"
    folder = f"`{pictures.folder}/`" if pictures.folder else "that of `--images`"
    packed = f"`{archive.path}`" if archive else "none"
    weight = f"{archive.megabytes / 1000:.1f} GB" if archive and archive.megabytes else "not known"
    how = "URL" if archive and archive.direct else "by hand"
    return f"| {pictures.name} | {count} | {folder} | {packed} | {weight} | {how} |"


def test_the_page_has_every_data_set_as_its_recipe_says():
    lines = PAGE.read_text().splitlines()
    assert [row for name in NAMES if (row := dataset_row(name)) not in lines] == []
    assert sum(line.startswith("| [") for line in lines) == len(NAMES)


def test_the_page_has_every_set_of_pictures():
    lines = PAGE.read_text().splitlines()
    sets = {pictures.name: pictures for name in NAMES for pictures in recipe(name).picture_sets}
    assert [row for pictures in sets.values() if (row := picture_row(pictures)) not in lines] == []


def test_what_the_pages_say_of_evaluations_is_so():
    """docs/map.md, "Screening": the pictures of stages 3 and 4 are not held against those asked about."""
    late = {name for stage in PAPER.stages[2:] for name in stage.mix}
    assert {PAPER.data[name].screen.evaluation_bits for name in late} == {None}
    assert all(PAPER.data[name].screen.evaluation_bits for stage in PAPER.stages[:2] for name in stage.mix)
    assert recipe("refcoco").picture_sets == recipe("refcoco_test").picture_sets
    for name in ("aok_vqa", "coco_caption"):
        assert {*recipe("ok_vqa_test").picture_sets} < {*recipe(name).picture_sets}
        assert SMALL.data[name].screen.evaluation_bits


def test_every_form_on_the_page_is_one_that_is_tested():
    assert {*CASES, "list"} == set(NAMES)
