"""The steps that turn a list or annotation file into shards."""

import importlib
import pkgutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import data_recipes
from flows.place import Place
from tasks.build import Request, Site
from tasks.fetch import FETCH, fetch
from tasks.filter import FILTER, filter_rows
from tasks.guard import canonical_host
from tasks.rows import ROWS, rows
from tasks.scenes import DRAW, draw
from tasks.serve import serving
from tinygptv_core.artifact import Artifact, file_artifact
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.presets import DataSettings, Preset, Scenes
from tinygptv_core.recipe import Recipe

SOURCE = "scenes/draw"
LIST = "list"
SCENES_HOST = "scenes.invalid"


def recipe(name: str) -> Recipe:
    """The recipe in `data_recipes/<name>.py`.

    Raises:
        ConfigError: there is no such file; says which there are.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(data_recipes.__path__))
    if name not in names:
        raise ConfigError(unknown("data_recipes/", name, names))
    return importlib.import_module(f"data_recipes.{name}").RECIPE


def source_steps(preset: Preset, place: Place) -> tuple[Request, ...]:
    """Draw the scenes, where the preset has any."""
    if preset.scenes is None:
        return ()
    scenes: Scenes = preset.scenes

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        draw(scenes, site)

    return (Request(name=SOURCE, step=DRAW, config=scenes, inputs={}, work=work),)


def dataset_steps(name: str, settings: DataSettings, place: Place) -> tuple[Request, ...]:
    """rows, filter and fetch of one data set."""
    form = recipe(name)
    own = place.list_file if name == LIST else None
    source = file_artifact(own, LIST) if own else SOURCE
    # Which hosts are allowed bears on what becomes of a row, where the addresses are not the project's own.
    allowed = {"allow_hosts": sorted(set(map(canonical_host, place.fetching.allow_hosts)))} if own else {}

    def make_rows(inputs: Mapping[str, Artifact], site: Site) -> None:
        path = inputs["source"].path
        rows(form, name, path if path.is_file() else path / form.source, site)

    def make_filter(inputs: Mapping[str, Artifact], site: Site) -> None:
        filter_rows(settings.filter, form, inputs["table"].path, site)

    def make_shards(inputs: Mapping[str, Artifact], site: Site) -> None:
        _fetch(name, form, settings, inputs, site, place)

    config = {"data": name, "recipe": form}
    return (
        Request(name=f"{name}/rows", step=ROWS, config=config, inputs={"source": source}, work=make_rows),
        Request(
            name=f"{name}/filter",
            step=FILTER,
            config={"filter": settings.filter, "how": form.how},
            inputs={"table": f"{name}/rows"},
            work=make_filter,
        ),
        Request(
            name=f"{name}/fetch",
            step=FETCH,
            config={"fetch": settings.fetch, "how": form.how, **allowed},
            inputs={"table": f"{name}/filter", **({} if own else {"source": SOURCE})},
            work=make_shards,
        ),
    )


def _fetch(
    name: str, form: Recipe, settings: DataSettings, inputs: Mapping[str, Artifact], site: Site, place: Place
) -> None:
    """Fetch a data set; the project's own scenes are served on loopback meanwhile, under their stable name."""
    source: Path | None = inputs["source"].path if "source" in inputs else None
    with ExitStack() as opened:
        served = source / "served" if source and form.how == "url" else None
        hosts = {SCENES_HOST: opened.enter_context(serving(served))} if served else {}
        options = replace(place.fetching, hosts=hosts, progress=place.progress(f"{name}/fetch"))
        fetch(settings.fetch, form, inputs["table"].path, source, options, site)
