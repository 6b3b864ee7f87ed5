"""The steps that turn a list or annotation file into shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from flows.inputs import pictures_name, set_inputs, sets_in
from flows.provenance import noted
from flows.recipes import recipe
from flows.run_environment import RunEnvironment
from tasks.fetch import FETCH, fetch_files
from tasks.fetch_estimates import estimate_fetch
from tasks.fetching.serve import serving
from tasks.filter import FILTER, filter_rows
from tasks.filtering.removals import NO_REMOVALS, read_removals
from tasks.hosts import canonical_host
from tasks.picture_sets import GATHER, PICTURES, gather, write_pictures
from tasks.reading.list_files import COPY, copy_lists, is_far, state_of
from tasks.request import Estimate, Inputs, Request, StepFolders
from tasks.rows import ROWS, rows_of_lists
from tasks.scenes import DRAW, draw
from tasks.sealed import MANIFEST
from tasks.segments import FetchTarget, SegmentStore, fetch_urls, rounded
from tasks.sources import brought_file, brought_pictures, warn_of_size
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact, file_artifact
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import Preset
from tinygptv_core.recipe import PictureSet, Recipe
from tinygptv_core.settings import SCENES_HOST, DataSettings, Scenes
from tinygptv_core.stage import samples_wanted

SOURCE = "scenes/draw"
LIST = "list"
INSTRUCT = "instruct"


def source_steps(preset: Preset) -> tuple[Request, ...]:
    """Draw the scenes, where the preset has any."""
    if preset.scenes is None:
        return ()
    scenes: Scenes = preset.scenes

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        draw(scenes, folders)

    return (Request(name=SOURCE, step=DRAW, config=scenes, inputs={}, work=work),)


def pictures_step(pictures: PictureSet, environment: RunEnvironment) -> Request:
    """Keep the pictures of a set, once for all data sets that are about it."""
    name = pictures_name(pictures)

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        source = inputs["source"]
        if pictures.archive is not None and source.path.is_file():
            warn_of_size(pictures.archive, source.path)
        write_pictures(pictures, source.path, folders, environment.progress(name))
        if brought_pictures(data, pictures, environment.stamps).digest != source.digest:
            raise ConfigError(f"{source.path} was changed while it was read. Run the same command again")

    data = environment.images if pictures.name == INSTRUCT else environment.data
    inputs, lacks = _brought({"source": lambda: brought_pictures(data, pictures, environment.stamps)})
    config = {"pictures": pictures.name, "inside": pictures.inside}
    return Request(name=name, step=PICTURES, config=config, inputs=inputs, work=work, lacks=lacks)


def _brought(found: Mapping[str, Callable[[], Artifact]]) -> tuple[dict[str, str | Artifact | None], str | None]:
    """The user's files as inputs, and what is missing of them, in words."""
    inputs: dict[str, str | Artifact | None] = {}
    lacks: list[str] = []
    for name, find in found.items():
        try:
            inputs[name] = find()
        except ConfigError as error:
            inputs[name] = None
            lacks.append(str(error))
    return inputs, "\n".join(lacks) or None


def _files(
    name: str, form: Recipe, preset: Preset, environment: RunEnvironment
) -> tuple[dict[str, str | Artifact | None], str | None]:
    """What a data set's table is made of: a user's list, the files that he got, or what the project draws."""
    own = environment.own_lists.get(name, ())
    if any(map(is_far, own)):
        return {"source": copy_name(name)}, None
    if own:
        names = ["source", *(f"source.{number:05d}" for number in range(1, len(own)))]
        return {key: file_artifact(Path(path), name) for key, path in zip(names, own, strict=True)}, None
    if not form.files:
        return ({"source": SOURCE}, None) if preset.scenes else ({"source": None}, _not_drawn(name, form))
    names = {file.path: "source" if file.path == form.source else f"joined.{file.path}" for file in form.files}
    return _brought(
        {
            names[file.path]: lambda file=file: brought_file(environment.data, file, environment.stamps)
            for file in form.files
        }
    )


def _not_drawn(name: str, form: Recipe) -> str:
    """That a data set has no source."""
    if name in (LIST, INSTRUCT):
        return f"{name} is a user's own data: give it with --{name}"
    return (
        f"{name} reads {form.source}, which no step of this preset makes: "
        f"files in data_recipes/{name}.py must say how it is got.\n"
        "  docs/adding.md has how"
    )


def copy_name(name: str) -> str:
    """The name of the step that copies a data set's lists from other machines."""
    return f"{name}/copy"


def _copies(name: str, addresses: Sequence[str]) -> Iterator[Request]:
    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        copy_lists(addresses, folders)

    if any(map(is_far, addresses)):
        config = [state_of(address) for address in addresses]
        yield Request(name=copy_name(name), step=COPY, config=config, inputs={}, work=work)


def _is_source(key: str) -> bool:
    return key.partition(".")[0] == "source"


def _lists_in(sources: Sequence[Path]) -> list[Path]:
    """The list files among a user's own, of which a folder is a copy of lists."""
    if len(sources) > 1 or sources[0].is_file():
        return list(sources)
    return sorted(path for path in sources[0].iterdir() if path.name != MANIFEST)


def _drawn(name: str, source: Path, form: Recipe) -> Path:
    """The file of a data set among what the project drew.

    Raises:
        ConfigError: there is none.
    """
    if not (drawn := source / form.source).is_file():
        raise ConfigError(_not_drawn(name, form))
    return drawn


def dataset_steps(name: str, preset: Preset, environment: RunEnvironment) -> tuple[Request, ...]:
    """rows, filter and fetch of one data set."""
    form, settings = recipe(name), preset.data[name]
    sources, lacks = _files(name, form, preset, environment)
    of_project = SOURCE in sources.values()
    own = environment.own_lists.get(name, ())
    by_url = environment.removal_list if form.how == "url" else None
    removals = {"removals": file_artifact(by_url, "removals")} if by_url else {}

    def make_rows(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        joined = {key.removeprefix("joined."): item.path for key, item in inputs.items() if not _is_source(key)}
        for file in () if own else form.files:
            warn_of_size(file, inputs["source"].path if file.path == form.source else joined[file.path])
        found = [inputs[key].path for key in sorted(inputs) if _is_source(key)]
        lists = [_drawn(name, found[0], form)] if of_project else _lists_in(found)
        rows_of_lists(form, name, lists, folders, joined)

    def make_filter(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        removed = read_removals(inputs["removals"].path) if removals else NO_REMOVALS
        filter_rows(settings.filter, form, inputs["table"].path, folders, removed)

    # The details of drops name the list that a row was in, where there are several.
    named = {"lists": [Path(item).name for item in own]} if len(own) > 1 else {}
    config = {"data": name, "recipe": form, **named}
    return (
        *_copies(name, own),
        Request(name=f"{name}/rows", step=ROWS, config=config, inputs=sources, work=make_rows, lacks=lacks),
        Request(
            name=f"{name}/filter",
            step=FILTER,
            config={"filter": settings.filter, "how": form.how},
            inputs={"table": f"{name}/rows", **removals},
            work=make_filter,
        ),
        _shards_step(name, form, preset, environment, of_project=of_project),
    )


def _shards_step(name: str, form: Recipe, preset: Preset, environment: RunEnvironment, *, of_project: bool) -> Request:
    """The data set's shards: of what is fetched, of the project's own files, or of texts about picture sets."""
    settings = preset.data[name]
    if form.how == "file" and not of_project:
        return _gather_step(name, form, settings, environment)
    # Which hosts are allowed bears on what becomes of a row, where the addresses are not the project's own.
    allow_hosts = sorted(set(map(canonical_host, environment.fetching.allow_hosts)))
    allowed = {} if of_project else {"allow_hosts": allow_hosts}
    wanted = FetchTarget(name=name, settings=settings.fetch, pictures=pictures_wanted(name, preset), allowed=allowed)

    def make_shards(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        _fetch(wanted, form, inputs, folders, environment)

    def estimate(inputs: Inputs) -> Estimate | None:
        if form.how == "file":
            return None
        listed = environment.listed.get(name)
        return estimate_fetch(wanted, form, inputs.get("table"), environment.fetching, environment.store, listed)

    return Request(
        name=f"{name}/fetch",
        step=FETCH,
        config={"fetch": settings.fetch, "how": form.how, **allowed, **_number(wanted, form)},
        inputs={"table": f"{name}/filter", **({"source": SOURCE} if of_project else {})},
        work=make_shards,
        estimate=estimate,
    )


def _gather_step(name: str, form: Recipe, settings: DataSettings, environment: RunEnvironment) -> Request:
    def make_shards(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        gather(settings.fetch, inputs["table"].path, sets_in(inputs), folders, environment.progress(f"{name}/fetch"))

    limits = {"max_bytes": settings.fetch.max_bytes, "samples_per_shard": settings.fetch.samples_per_shard}
    config = {"fetch": limits, "pictures": [pictures.name for pictures in form.picture_sets]}
    return Request(
        name=f"{name}/fetch",
        step=GATHER,
        config=config,
        inputs={"table": f"{name}/filter", **set_inputs([name])},
        work=make_shards,
    )


def pictures_wanted(name: str, preset: Preset) -> int | None:
    """How many pictures of a data set are fetched; None for all, as where an evaluation asks about every one.

    Of what nobody draws from it is one segment, so that one can see what it holds.
    """
    settings = preset.data[name].fetch
    asked = {evals.load(item).dataset for stage in preset.stages for item in stage.evals}
    if settings.wanted is None and name in asked:
        return None
    return rounded(settings.wanted or samples_wanted(preset.stages, name) or 1, settings)


def _number(wanted: FetchTarget, form: Recipe) -> dict[str, int | None]:
    """How many pictures are wanted, for those data sets of which not all are taken."""
    return {"wanted": wanted.pictures} if form.how == "url" else {}


def _fetch(
    wanted: FetchTarget, form: Recipe, inputs: Mapping[str, Artifact], folders: StepFolders, environment: RunEnvironment
) -> None:
    """Fetch a data set; the project's own scenes are served on loopback meanwhile, under their stable name."""
    options = replace(environment.fetching, progress=environment.progress(f"{wanted.name}/fetch"))
    source = inputs["source"].path if "source" in inputs else None
    if form.how == "file":
        assert source is not None, "a data set of files has a source"
        return fetch_files(wanted.settings, inputs["table"].path, source, options, folders)
    segment_store = SegmentStore(store=environment.store, noted=noted(environment.run, environment.options))
    with ExitStack() as opened:
        hosts = {SCENES_HOST: opened.enter_context(serving(source / "served"))} if source else {}
        fetch_urls(wanted, inputs["table"], replace(options, hosts=hosts), folders, segment_store)
