"""What a plan says a step would take, in words and for machines."""

from collections.abc import Sequence
from typing import Any

from flows.plan import Planned
from tasks.quantities import counted, duration, first_of, size
from tasks.request import Estimate, TrainingEstimate
from tasks.training.vision_cache import CacheAdvice, in_words

GIGABYTE = 1e9
HOUR = 3600
MOST_NAMES = 3


def for_machines(item: Planned) -> dict[str, Any]:
    """A step of a plan; `hours`, `fetch`, `train` and `vision_cache` where there is something to say of them."""
    told: dict[str, Any] = {"step": item.step, "action": item.action, "why": item.why}
    if item.action == "build" and item.seconds is not None:
        told["hours"] = item.seconds / HOUR
    if isinstance(item.estimate, Estimate):
        told["fetch"] = _fetch(item.estimate)
    elif item.estimate:
        told["train"] = _train(item.estimate)
    if item.cache:
        told["vision_cache"] = [_cache(advice) for advice in item.cache]
    return told


def what_it_takes(item: Planned) -> list[str]:
    """The same as lines for people."""
    told = [_fetch_in_words(item.estimate)] if isinstance(item.estimate, Estimate) else []
    told += [_train_in_words(item.estimate)] if isinstance(item.estimate, TrainingEstimate) else []
    return told + [in_words(advice) for advice in item.cache]


def in_all(planned: Sequence[Planned]) -> str | None:
    """How long all that is to be built takes, in words; None where nothing of it was measured."""
    builds = [item for item in planned if item.action == "build"]
    unknown = [item.step for item in builds if item.seconds is None]
    known = sum(item.seconds or 0.0 for item in builds)
    if len(unknown) == len(builds):
        return None
    told = f"{duration(known)} in all, steps without an estimate above as the last time"
    return f"at least {told}; not yet measured: {first_of(unknown, MOST_NAMES, ', ')}" if unknown else told


def _fetch(taken: Estimate) -> dict[str, Any]:
    return {
        "rows": taken.rows,
        "is_bound": taken.is_bound,
        "gigabytes": taken.bytes / GIGABYTE,
        "hours": taken.seconds / HOUR,
        "is_measured": taken.is_measured,
    }


def _train(taken: TrainingEstimate) -> dict[str, Any]:
    return {
        "hours": None if taken.seconds is None else taken.seconds / HOUR,
        "memory_gigabytes": taken.memory_bytes / GIGABYTE,
        "disk_gigabytes": taken.disk_bytes / GIGABYTE,
        "from": taken.by,
        "note": taken.note,
    }


def _cache(advice: CacheAdvice) -> dict[str, Any]:
    return {
        "pictures": advice.pictures,
        "datasets": list(advice.datasets),
        "count": advice.count,
        "is_bound": advice.is_bound,
        "reads": advice.reads,
        "gigabytes": None if advice.bytes is None else advice.bytes / GIGABYTE,
        "is_kept": advice.is_kept,
        "is_worth_it": advice.is_worth_it,
    }


def _fetch_in_words(taken: Estimate) -> str:
    source = "by what was fetched of it before" if taken.is_measured else "by what such lists take; nothing is measured"
    rows = f"{'at most ' * taken.is_bound}{counted(taken.rows, 'row')}"
    return f"to fetch: {rows}, {size(taken.bytes)} on disk, {duration(taken.seconds)} ({source})"


def _train_in_words(taken: TrainingEstimate) -> str:
    memory, disk = f"{size(taken.memory_bytes)} of memory a process", f"{size(taken.disk_bytes)} on disk"
    if taken.seconds is None:
        return f"to train: at least {memory} for weights and optimizer, {disk}; {taken.note}"
    source = f"by a {taken.by}" if taken.by == "probe" else f"by the {taken.by} of such a stage"
    told = ", ".join([source, *([taken.note] if taken.note else [])])
    return f"to train: {duration(taken.seconds)}, {memory}, {disk} ({told})"
