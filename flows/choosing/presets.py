"""Which presets there are, for those who choose one: what each is, how long its stages are, and what it needs."""

from collections.abc import Iterable

from flows.data import pictures_wanted
from flows.recipes import recipe
from tasks.fetch_estimates import PICTURE_BYTES
from tinygptv_core.presets import Preset
from tinygptv_core.recipe import Download


def described(presets: Iterable[Preset]) -> str:
    """All of them, a paragraph each."""
    return "\n\n".join(map(_described, presets))


def _described(preset: Preset) -> str:
    steps = ", ".join(f"{stage.name} {stage.schedule.steps:,} steps" for stage in preset.stages)
    told = {"stages": steps, "weights": _weights(preset), "data": _data(preset), "runs on": _machine(preset)}
    return "\n".join([preset.name, f"  {preset.about}", *(f"  {name:8s} {text}" for name, text in told.items())])


def _weights(preset: Preset) -> str:
    sources = preset.backbones.sources
    if sources is None:
        return "come with the package"
    brought = {name for name in ("vision", "qformer", "llm") if getattr(sources, name).path is None}
    return f"yours: {', '.join(sorted(brought))} (tinygptv plan says where they are)" if brought else "yours, and named"


def _data(preset: Preset) -> str:
    if preset.scenes is not None:
        return "drawn by the project"
    files = downloads(preset)
    known = sum(file.megabytes or 0 for file in files)
    unknown = sum(file.megabytes is None for file in files)
    by_hand = sum(not file.direct for file in files)
    fetched = [pictures_wanted(name, preset) or 0 for name in preset.data if recipe(name).how == "url"]
    return (
        f"{len(files)} files to download ({by_hand} by hand): {known / 1000:,.0f} GB and {unknown} of unknown size; "
        f"{sum(fetched):,} pictures are fetched, {sum(fetched) * PICTURE_BYTES / 1e9:,.1f} GB"
    )


def downloads(preset: Preset) -> tuple[Download, ...]:
    """Every file and archive that a user has to get for a preset, once."""
    forms = [recipe(name) for name in preset.data]
    files = [file for form in forms for file in form.files]
    archives = [pictures.archive for form in forms for pictures in form.picture_sets if pictures.archive]
    return tuple({file.path: file for file in (*files, *archives)}.values())


def _machine(preset: Preset) -> str:
    options = preset.options
    if options.device == "cpu":
        return f"{options.cores} CPU cores"
    return f"a GPU (more: --option processes=N), at most {options.micro_batch} samples at once in each"
