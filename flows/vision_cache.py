"""What a plan says of keeping vision tokens: how often each picture will be looked at, and what keeping it takes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flows.data import pictures_name, pictures_wanted, recipe
from flows.evaluate import FRESH
from flows.plan import Planned
from flows.train import sizes_of
from tasks.tables import read_counts
from tasks.vision_cache import CacheAdvice, picture_bytes
from tinygptv_core import evals
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import Preset
from tinygptv_core.stages import Stage, samples_drawn

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


def with_cache_advice(preset: Preset, planned: Sequence[Planned]) -> tuple[Planned, ...]:
    """`planned`, in which the first step to look at some pictures says whether to keep their tokens."""
    there = {item.step: item.artifact for item in planned}
    told: dict[str, list[CacheAdvice]] = {}
    for looks in (_training(preset), _evaluation(preset, there)):
        for names in _by_pictures(looks):
            own = [look for look in looks if names[0] in look.reads]
            told.setdefault(own[0].first, []).append(_advice(preset, names, own, there))
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


def _evaluation(preset: Preset, there: Mapping[str, Artifact | None]) -> list[_Look]:
    """Each evaluation looks at every picture once, for its questions and those of the control: None for a count."""
    asked = {s.name: tuple({evals.load(name).dataset: None for name in s.evals}) for s in preset.stages}
    scenes, fresh = preset.scenes.held_out_pictures if preset.scenes else None, f"{FRESH}/evaluate"
    looks: list[_Look] = []
    for stages in _alike(preset, asked):
        begins = stages[0] is preset.stages[0] and fresh in there
        first = fresh if begins else f"{stages[0].name}/evaluate"
        times = len(stages) + begins
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
    preset: Preset, names: tuple[str, ...], looks: Sequence[_Look], there: Mapping[str, Artifact | None]
) -> CacheAdvice:
    count = _count(preset, names, looks[0].scenes, there)
    kept = {look.first: look.stage.precision for look in looks}
    qformer = sizes_of(preset.backbones).qformer
    reads = sum(_reads(look, names, count) for look in looks) if count else None
    return CacheAdvice(
        pictures=_source(names[0]),
        datasets=names,
        count=count,
        reads=reads / (count * len(kept)) if reads is not None and count else None,
        bytes=sum(count * picture_bytes(qformer, precision) for precision in kept.values()) if count else None,
        is_kept=all(preset.data[name].cached_vision for name in names),
    )


def _reads(look: _Look, names: Sequence[str], count: int) -> float:
    """How many pictures are looked at, in all: of an evaluation each once."""
    drawn = [look.reads[name] for name in names if name in look.reads]
    return count if None in drawn else sum(number for number in drawn if number is not None)


def _count(
    preset: Preset, names: Sequence[str], scenes: int | None, there: Mapping[str, Artifact | None]
) -> int | None:
    """How many pictures these data sets are about: no more than there are, and no more than they have samples."""
    rows = [_samples(preset, name, there) for name in names]
    bounds = [_pictures(names[0], scenes, there), None if None in rows else sum(row for row in rows if row)]
    return min((bound for bound in bounds if bound), default=None)


def _samples(preset: Preset, name: str, there: Mapping[str, Artifact | None]) -> int | None:
    known, expected = _kept(there.get(f"{name}/screen")), recipe(name).expected_rows
    wanted = pictures_wanted(name, preset) if recipe(name).how == "url" else None
    return known or (min(wanted, expected) if wanted and expected else expected)


def _pictures(name: str, scenes: int | None, there: Mapping[str, Artifact | None]) -> int | None:
    """How many there are where a data set's pictures come from, where others may come from there too."""
    form = recipe(name)
    if not form.picture_sets:
        return scenes if _source(name) == SCENES else None
    counts = [_kept(there.get(pictures_name(one))) or one.pictures for one in form.picture_sets]
    return None if None in counts else sum(count for count in counts if count)


def _kept(artifact: Artifact | None) -> int | None:
    return read_counts(artifact.path)["kept"] if artifact else None
