"""The recipes of the data sets, by name."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

import data_recipes
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.recipe import Recipe
from tinygptv_core.user_code import FAILURES, cannot_be_run


def recipes() -> list[str]:
    """The names of all data sets that have one."""
    return sorted(module.name for module in pkgutil.iter_modules(data_recipes.__path__) if not module.ispkg)


@cache
def recipe(name: str) -> Recipe:
    """The recipe in `data_recipes/<name>.py`.

    Raises:
        ConfigError: there is no such file (says which there are), it cannot be run, or makes no RECIPE.
    """
    if name not in recipes():
        raise ConfigError(unknown("data_recipes/", name, recipes()))
    file = Path(data_recipes.__path__[0]) / f"{name}.py"
    try:
        made = importlib.import_module(f"data_recipes.{name}")
    except FAILURES as error:
        raise ConfigError(cannot_be_run(file, error)) from error
    found = getattr(made, "RECIPE", None)
    if not isinstance(found, Recipe):
        raise ConfigError(f"{file} makes no RECIPE: a Recipe of that name describes the data set")
    return found
