"""The recipes of the data sets, by name."""

import importlib
import pkgutil
from functools import cache

import data_recipes
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.recipe import Recipe


def recipes() -> list[str]:
    """The names of all data sets that have one."""
    return sorted(module.name for module in pkgutil.iter_modules(data_recipes.__path__) if not module.ispkg)


@cache
def recipe(name: str) -> Recipe:
    """The recipe in `data_recipes/<name>.py`.

    Raises:
        ConfigError: there is no such file; says which there are.
    """
    if name not in recipes():
        raise ConfigError(unknown("data_recipes/", name, recipes()))
    return importlib.import_module(f"data_recipes.{name}").RECIPE
