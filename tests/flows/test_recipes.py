"""A recipe that a user writes, and gets wrong."""

import pytest

import data_recipes
from flows.recipes import recipe
from tinygptv_core.plain import ConfigError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("from tinygptv_core.recipe import Recipe\n\nRECIPE = Recipe(version=1)\n", r"line 3: TypeError: .*missing"),
        ("RECIPE = (\n", r"SyntaxError: .*never closed"),
        ("MINE = 1\n", "makes no RECIPE"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_told_with_its_file_and_line(monkeypatch, tmp_path, text, told):
    name = f"wrong_{abs(hash(text))}"  # Python keeps the modules that it has imported
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(data_recipes, "__path__", [str(tmp_path)])
    with pytest.raises(ConfigError, match=rf"{name}\.py .*{told}"):
        recipe(name)
