"""The steps that turn a list or annotation file into shards and an index of the samples that stay."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import data_recipes
from flows.place import Place
from tasks.build import MANIFEST, Request, Site
from tasks.fetch import FETCH, fetch
from tasks.filter import FILTER, filter_rows
from tasks.guard import canonical_host
from tasks.list_files import COPY, copy_lists, is_far, state_of
from tasks.removals import NO_REMOVALS, read_removals
from tasks.rows import ROWS, rows_of_lists
from tasks.scenes import DRAW, draw
from tasks.screen import SCREEN, screen
from tasks.serve import serving
from tinygptv_core.artifact import Artifact, file_artifact
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.presets import DataSettings, Preset, Scenes
from tinygptv_core.recipe import Recipe

SOURCE = "scenes/draw"
LIST = "list"
COPIED = "list/copy"
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
    """rows, filter, fetch and screen of one data set."""
    form = recipe(name)
    own = place.lists if name == LIST else ()
    copied = tuple(_copied(own)) if any(map(is_far, own)) else ()
    sources = _sources(own, bool(copied))
    removals = {"removals": file_artifact(place.removal_list, "removals")} if place.removal_list else {}
    # Which hosts are allowed bears on what becomes of a row, where the addresses are not the project's own.
    allowed = {"allow_hosts": sorted(set(map(canonical_host, place.fetching.allow_hosts)))} if own else {}

    def make_rows(inputs: Mapping[str, Artifact], site: Site) -> None:
        paths = [inputs[name].path for name in sources]
        if copied:
            paths = sorted(path for path in paths[0].iterdir() if path.name != MANIFEST)
        rows_of_lists(form, name, paths if own else [paths[0] / form.source], site)

    def make_filter(inputs: Mapping[str, Artifact], site: Site) -> None:
        removed = read_removals(inputs["removals"].path) if removals else NO_REMOVALS
        filter_rows(settings.filter, form, inputs["table"].path, site, removed)

    def make_shards(inputs: Mapping[str, Artifact], site: Site) -> None:
        _fetch(name, form, settings, inputs, site, place)

    def make_index(inputs: Mapping[str, Artifact], site: Site) -> None:
        screen(settings.screen, inputs["shards"].path, site)

    # The details of drops name the list that a row was in, where there are several.
    named = {"lists": [Path(item).name for item in own]} if len(own) > 1 else {}
    config = {"data": name, "recipe": form, **named}
    return (
        *copied,
        Request(name=f"{name}/rows", step=ROWS, config=config, inputs=sources, work=make_rows),
        Request(
            name=f"{name}/filter",
            step=FILTER,
            config={"filter": settings.filter, "how": form.how},
            inputs={"table": f"{name}/rows", **(removals if form.how == "url" else {})},
            work=make_filter,
        ),
        Request(
            name=f"{name}/fetch",
            step=FETCH,
            config={"fetch": settings.fetch, "how": form.how, **allowed},
            inputs={"table": f"{name}/filter", **({} if own else {"source": SOURCE})},
            work=make_shards,
        ),
        Request(
            name=f"{name}/screen",
            step=SCREEN,
            config=settings.screen,
            inputs={"shards": f"{name}/fetch"},
            work=make_index,
        ),
    )


def _sources(own: Sequence[str], is_copied: bool) -> dict[str, str | Artifact]:
    """What the rows are made from: the user's own lists, or the copy of them, or what the project draws."""
    if not own or is_copied:
        return {"source": COPIED if own else SOURCE}
    names = ["source", *(f"source{number:05d}" for number in range(1, len(own)))]
    return {name: file_artifact(Path(path), LIST) for name, path in zip(names, own, strict=True)}


def _copied(addresses: Sequence[str]) -> Iterator[Request]:
    """Copy lists that are on other machines."""

    def work(inputs: Mapping[str, Artifact], site: Site) -> None:
        copy_lists(addresses, site)

    yield Request(name=COPIED, step=COPY, config=[state_of(address) for address in addresses], inputs={}, work=work)


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
