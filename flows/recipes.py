"""The recipes of the data sets, by name."""

import importlib
import pkgutil
from functools import cache

import data_recipes
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.recipe import Recipe


@cache
def recipe(name: str) -> Recipe:
    """The recipe in `data_recipes/<name>.py`.

    Raises:
        ConfigError: there is no such file; says which there are.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(data_recipes.__path__) if not module.ispkg)
    if name not in names:
        raise ConfigError(unknown("data_recipes/", name, names))
    return importlib.import_module(f"data_recipes.{name}").RECIPE
