"""Which vision tokens are kept, and what a plan says of it: how often a picture is looked at, what keeping it takes.

With and without them a run agrees to rounding, not to the bit. So the choice follows from the preset, as it was
changed, and the recipes alone: not from the disk, nor from what is in the store by now. That only the plan says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from flows.data import pictures_wanted
from flows.evaluate import FRESH
from flows.inputs import pictures_name
from flows.plan import Planned
from flows.recipes import recipe
from flows.train import sizes_of
from tasks.segments import rows_of_a_segment
from tasks.tables import read_counts
from tasks.training.vision_cache import CacheAdvice, picture_bytes
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import Preset
from tinygptv_core.stage import Stage, samples_drawn

SCENES = "scenes"
"""The pictures that the project draws for its own annotations."""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Steps that share vision tokens look at the pictures of these data sets, each so many times in all.

    `scenes` is how many pictures the project draws for them, where it does.
    """

    first: str
    reads: Mapping[str, float | None]
    stage: Stage
    scenes: int | None


def kept_in_training(preset: Preset) -> frozenset[str]:
    """The data sets of which training reads kept vision tokens: where `cached_vision` says so, or `auto` chooses it."""
    return _chosen(preset, _training(preset))


def kept_in_evaluation(preset: Preset) -> frozenset[str]:
    """The same of evaluations."""
    return _chosen(preset, _evaluation(preset, begins=True))


def _chosen(preset: Preset, looks: Sequence[_Look]) -> frozenset[str]:
    settings = {name: preset.data[name].cached_vision for look in looks for name in look.reads}
    advised = (_advice(preset, names, looks, {}, frozenset()) for names in _by_pictures(looks))
    worth = {name for advice in advised if advice.is_worth_it for name in advice.datasets}
    return frozenset(name for name, kept in settings.items() if kept == "on" or (kept == "auto" and name in worth))


def with_cache_advice(preset: Preset, planned: Sequence[Planned]) -> tuple[Planned, ...]:
    """`planned`, in which the first step to look at some pictures says whether to keep their tokens."""
    there = {item.step: item.artifact for item in planned}
    told: dict[str, list[CacheAdvice]] = {}
    for looks, kept in (
        (_training(preset), kept_in_training(preset)),
        (_evaluation(preset, begins=f"{FRESH}/evaluate" in there), kept_in_evaluation(preset)),
    ):
        for names in _by_pictures(looks):
            first = next(look.first for look in looks if names[0] in look.reads)
            told.setdefault(first, []).append(_advice(preset, names, looks, there, kept))
    return tuple(
        replace(item, cache=tuple(told[item.step])) if item.action == "build" and item.step in told else item
        for item in planned
    )


def _training(preset: Preset) -> list[_Look]:
    scenes = preset.scenes.instruction_pictures if preset.scenes else None
    return [
        _Look(
            first=f"{stages[0].name}/train",
            reads={name: samples_drawn(stages, name) for name in stages[0].mix},
            stage=stages[0],
            scenes=scenes,
        )
        for stages in _alike(preset, {stage.name: tuple(stage.mix) for stage in preset.stages})
    ]


def _evaluation(preset: Preset, *, begins: bool) -> list[_Look]:
    """Each evaluation looks at every picture once, for its questions and those of the control: None for a count.

    Args:
        begins: fresh projections are scored, too.
    """
    asked = {s.name: tuple({evals.load(name).dataset: None for name in s.evals}) for s in preset.stages}
    scenes = preset.scenes.held_out_pictures if preset.scenes else None
    looks: list[_Look] = []
    for stages in _alike(preset, asked):
        is_fresh = begins and stages[0] is preset.stages[0]
        first = f"{FRESH if is_fresh else stages[0].name}/evaluate"
        times = len(stages) + is_fresh
        reads = {name: None for name in asked[stages[0].name]}
        looks += [_Look(first=first, reads=reads, stage=stages[0], scenes=scenes)] * times
    return looks


def _alike(preset: Preset, datasets: Mapping[str, Iterable[str]]) -> list[list[Stage]]:
    """Stages that share tokens: they see the pictures of the same data sets the same way."""
    groups: dict[object, list[Stage]] = {}
    for stage in preset.stages:
        seen = (frozenset(datasets[stage.name]), stage.image_size, stage.precision)
        groups.setdefault(seen, []).append(stage)
    return list(groups.values())


def _by_pictures(looks: Sequence[_Look]) -> list[tuple[str, ...]]:
    """The data sets that have pictures, together where they are about the same ones and looked at by the same steps."""
    groups: dict[object, list[str]] = {}
    for name in {name: None for look in looks for name in look.reads}:
        if recipe(name).picture is not None or recipe(name).picture_name is not None:
            by = tuple(look.first for look in looks if name in look.reads)
            groups.setdefault((_source(name), by), []).append(name)
    return [tuple(names) for names in groups.values()]


def _source(name: str) -> str:
    """Where a data set's pictures come from."""
    form = recipe(name)
    if form.picture_sets:
        return " and ".join(pictures.name for pictures in form.picture_sets)
    return name if form.how == "url" else SCENES


def _advice(
    preset: Preset,
    names: tuple[str, ...],
    looks: Sequence[_Look],
    there: Mapping[str, Artifact | None],
    kept: frozenset[str],
) -> CacheAdvice:
    own = [look for look in looks if names[0] in look.reads]
    count, is_bound = _count(preset, names, own[0].scenes, there)
    precisions = {look.first: look.stage.precision for look in own}
    qformer = sizes_of(preset.backbones).qformer
    reads = sum(_reads(look, names, count) for look in own) if count else None
    return CacheAdvice(
        pictures=_source(names[0]),
        datasets=names,
        count=count,
        is_bound=is_bound,
        reads=reads / (count * len(precisions)) if reads is not None and count else None,
        bytes=sum(count * picture_bytes(qformer, precision) for precision in precisions.values()) if count else None,
        is_kept=kept.issuperset(names),
    )


def _reads(look: _Look, names: Sequence[str], count: int) -> float:
    """How many pictures are looked at, in all: of an evaluation each once."""
    drawn = [look.reads[name] for name in names if name in look.reads]
    return count if None in drawn else sum(number for number in drawn if number is not None)


def _count(
    preset: Preset, names: Sequence[str], scenes: int | None, there: Mapping[str, Artifact | None]
) -> tuple[int | None, bool]:
    """How many pictures these data sets are about: no more than there are, and no more than they have samples.

    Returns:
        the number, and whether all that is known is that no more are fetched.
    """
    rows = [_samples(preset, name, there) for name in names]
    known = [_pictures(names[0], scenes, there), None if None in rows else sum(row for row in rows if row)]
    if (count := min((bound for bound in known if bound), default=None)) is not None:
        return count, False
    fetched = [_fetched(name, preset) for name in names]
    return None if None in fetched else sum(number for number in fetched if number), True


def _samples(preset: Preset, name: str, there: Mapping[str, Artifact | None]) -> int | None:
    listed = preset.scenes.listed.get(name) if preset.scenes else None
    known, expected = _kept(there.get(f"{name}/screen")), listed or recipe(name).expected_rows
    fetched = _fetched(name, preset)
    return known or (min(fetched, expected) if fetched and expected else expected)


def _fetched(name: str, preset: Preset) -> int | None:
    """How many pictures are fetched of a list of URLs, at most, if not all: the last segment is fetched whole."""
    form, settings = recipe(name), preset.data[name].fetch
    wanted, rows = pictures_wanted(name, preset) if form.how == "url" else None, form.expected_rows
    if wanted is None:
        return None
    return wanted + (ceil(rows_of_a_segment(rows, settings)) if rows else settings.segment_rows)


def _pictures(name: str, scenes: int | None, there: Mapping[str, Artifact | None]) -> int | None:
    """How many there are where a data set's pictures come from, where others may come from there too."""
    form = recipe(name)
    if not form.picture_sets:
        return scenes if _source(name) == SCENES else None
    counts = [_kept(there.get(pictures_name(one))) or one.pictures for one in form.picture_sets]
    return None if None in counts else sum(count for count in counts if count)


def _kept(artifact: Artifact | None) -> int | None:
    return read_counts(artifact.path)["kept"] if artifact else None
