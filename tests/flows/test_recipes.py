"""A recipe that a user writes, and gets wrong."""

from dataclasses import replace

import pytest

import data_recipes
from data_recipes import gqa, refcoco, scenes_web, vsr_test
from flows import inputs
from flows.recipes import recipe
from tinygptv_core.plain import ConfigError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("from tinygptv_core.recipe import Recipe\n\nRECIPE = Recipe(version=1)\n", r"line 3: TypeError: .*missing"),
        ("RECIPE = (\n", r"SyntaxError: .*never closed"),
        ("raise SystemExit('usage')\n", "line 1: SystemExit: usage"),
        ("MINE = 1\n", "makes no RECIPE"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_told_with_its_file_and_line(monkeypatch, tmp_path, text, told):
    name = f"wrong_{abs(hash(text))}"  # Python keeps the modules that it has imported
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(data_recipes, "__path__", [str(tmp_path)])
    with pytest.raises(ConfigError, match=rf"{name}\.py .*{told}"):
        recipe(name)


@pytest.mark.parametrize(
    ("made", "changes", "told"),
    [
        (gqa.RECIPE, {"prompts": "[vqa] {}"}, r"prompts is '\[vqa\] {}'; it must be a tuple"),
        (gqa.RECIPE, {"prompts": ()}, "prompts are none"),
        (gqa.RECIPE, {"files": gqa.RECIPE.files[0]}, "files is Download.*; it must be a tuple"),
        (gqa.RECIPE, {"picture_sets": gqa.RECIPE.picture_sets[0]}, "picture_sets is PictureSet.*; it must be a tuple"),
        (gqa.RECIPE, {"picture_sets": ()}, "picture_sets must say in which folder"),
        (gqa.RECIPE, {"source": "gqa/other.json"}, "it reads gqa/other.json, which is none of its files: gqa/train"),
        (refcoco.RECIPE, {"files": refcoco.RECIPE.files[:1]}, "it reads refcoco/instances.json, which is none of its"),
        (scenes_web.RECIPE, {"picture": None}, "picture must name the column"),
        (scenes_web.RECIPE, {"picture_sets": gqa.RECIPE.picture_sets}, "there can be no picture_sets"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_as_it_is_made(made, changes, told):
    with pytest.raises(ConfigError, match=told):
        replace(made, **changes)


def test_two_sets_of_pictures_of_one_name_are_refused(monkeypatch):
    (own,) = vsr_test.RECIPE.picture_sets
    made = {"gqa": gqa.RECIPE, "mine": replace(gqa.RECIPE, picture_sets=(replace(own, name="gqa_images"),))}
    monkeypatch.setattr(inputs, "recipe", made.__getitem__)
    assert inputs.picture_sets(["gqa", "gqa"]) == {"gqa_images": gqa.RECIPE.picture_sets[0]}
    with pytest.raises(ConfigError, match="data_recipes/mine.py .*gqa_images in vsr/images, .*in gqa/images"):
        inputs.picture_sets(["gqa", "mine"])
