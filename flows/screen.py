"""The steps that say which samples of a data set stay: hashes and scores where a rule wants them, then the index."""

from collections.abc import Mapping

from flows.inputs import set_inputs, sets_in
from flows.run_environment import RunEnvironment
from tasks.filtering.removals import NO_REMOVALS, read_removals
from tasks.hashes import HASH, hash_pictures
from tasks.ratings import RATE, Rating, rate_pictures
from tasks.request import Request, StepFolders
from tasks.screen import SCREEN, Against, EvaluationPictures, Screened, screen
from tasks.typed_paths import typed_path
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact, file_artifact
from tinygptv_core.plain import ConfigError, plain
from tinygptv_core.presets import Preset
from tinygptv_core.settings import Scorer, Screen


def screen_steps(preset: Preset, name: str, environment: RunEnvironment) -> tuple[Request, ...]:
    """hash, rate and screen of one data set; the first two where a rule of the preset reads what they make."""
    settings = preset.data[name].screen
    rated = tuple(_rate_step(name, scorer, environment) for scorer in settings.scorers)
    hashed = (_hash_step(preset, name, environment),) if _is_hashed(preset, name) or environment.removals.phash else ()
    return (*hashed, *rated, _screen_step(preset, name, environment))


def _screen_step(preset: Preset, name: str, environment: RunEnvironment) -> Request:
    settings = preset.data[name].screen
    before, asked, listed = _before(preset, name), _kept_from(preset, name), environment.removal_list
    compares = before or asked or settings.near_duplicate_bits is not None or environment.removals.phash

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        removed = read_removals(inputs["removals"].path) if listed else NO_REMOVALS
        against = Against(
            hashes=inputs["hashes"].path if "hashes" in inputs else None,
            before={b: Screened(hashes=inputs[f"hashes.{b}"].path, index=inputs[f"index.{b}"].path) for b in before},
            evaluation={
                e: EvaluationPictures(hashes=inputs[f"evaluation.{e}"].path, splits=splits)
                for e, splits in asked.items()
            },
            ratings={scorer.name: inputs[f"scores.{scorer.name}"].path for scorer in settings.scorers},
            removed_sha256=removed.sha256,
            removed_phash=removed.phash,
        )
        screen(settings, inputs["shards"].path, against, folders, environment.sharing)

    return Request(
        name=f"{name}/screen",
        step=SCREEN,
        config=plain(settings, identity=True) | ({"evaluation_splits": asked} if asked else {}),
        inputs={
            "shards": f"{name}/fetch",
            **({"hashes": f"{name}/hash"} if compares else {}),
            **({"removals": file_artifact(listed, "removals")} if listed else {}),
            **{f"hashes.{b}": f"{b}/hash" for b in before},
            **{f"index.{b}": f"{b}/screen" for b in before},
            **{f"evaluation.{e}": f"{e}/hash" for e in asked},
            **{f"scores.{scorer.name}": f"{name}/rate-{scorer.name}" for scorer in settings.scorers},
        },
        work=work,
    )


def _hash_step(preset: Preset, name: str, environment: RunEnvironment) -> Request:
    fetched = preset.data[name].fetch
    bordered = fetched.image_size is not None and fetched.resize_mode == "border"

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        hash_pictures(
            inputs["shards"].path, sets_in(inputs), bordered=bordered, folders=folders, sharing=environment.sharing
        )

    return Request(
        name=f"{name}/hash",
        step=HASH,
        config={"bordered": bordered},
        inputs={"shards": f"{name}/fetch", **set_inputs([name])},
        work=work,
    )


def _rate_step(name: str, scorer: Scorer, environment: RunEnvironment) -> Request:
    file = typed_path(scorer.file)
    if not file.is_file():
        raise ConfigError(f"data.{name}.screen.scorers.{scorer.name}.file: there is no Python file {file}")

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        rating = Rating(file=inputs["scorer"].path, name=scorer.name, batch=scorer.batch)
        rate_pictures(rating, inputs["shards"].path, sets_in(inputs), folders, environment.sharing)

    return Request(
        name=f"{name}/rate-{scorer.name}",
        step=RATE,
        config={"name": scorer.name, "version": scorer.version},
        inputs={"shards": f"{name}/fetch", "scorer": file_artifact(file, "scorer"), **set_inputs([name])},
        work=work,
    )


def _asked(preset: Preset) -> dict[str, list[str] | None]:
    """The data sets that the preset's evaluations read, and of each the splits; None for all of it."""
    found: dict[str, list[str] | None] = {}
    for evaluation in (evals.load(name) for stage in preset.stages for name in stage.evals):
        splits = found.setdefault(evaluation.dataset, [])
        if evaluation.split is None or splits is None:
            found[evaluation.dataset] = None
        else:
            found[evaluation.dataset] = sorted({*splits, evaluation.split})
    return dict(sorted(found.items()))


def _kept_from(preset: Preset, name: str) -> dict[str, list[str] | None]:
    """The evaluations' data sets whose pictures data set `name` must not have, and of each the splits."""
    asked = _asked(preset)
    return asked if name not in asked and preset.data[name].screen.evaluation_bits is not None else {}


def _before(preset: Preset, name: str) -> tuple[str, ...]:
    """The data sets whose pictures data set `name` must not repeat. Sorted, for their order is in no key."""
    if preset.data[name].screen.near_duplicate_bits is None:
        return ()
    names = list(preset.data)
    earlier = names[: names.index(name)]
    return tuple(sorted(n for n in earlier if preset.data[n].screen.near_duplicate_bits is not None))


def _is_hashed(preset: Preset, name: str) -> bool:
    """Whether a rule reads the hashes of this data set: one of its own, or one of another that it is read by."""
    own: Screen = preset.data[name].screen
    if own.near_duplicate_bits is not None or _kept_from(preset, name):
        return True
    return any(name in _kept_from(preset, other) for other in preset.data)
