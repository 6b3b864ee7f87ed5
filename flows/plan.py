"""What would be built, what reused, and why. Builds nothing and imports nothing heavy."""

import difflib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from tasks.build import FORCED, RecordsOf, Store
from tasks.quantities import counted
from tasks.request import Estimate, Inputs, Request, TrainingEstimate
from tasks.sources import NO_FOLDER
from tasks.step_times import seconds_last_time
from tasks.training.vision_cache import CacheAdvice
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import MOST_NAMES, ConfigError, alternatives

TO_BE_BUILT = "its input {} is still to be built; may yet be reused, if that gives the same bytes"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One step of a plan. `artifact` is what would be reused, `estimate` what building it would take, if known.

    `cache` is whether to keep the vision tokens of the pictures that the step is the first to look at; `last_seconds`
    is what building it took the last time, without what `estimate` is about (`tasks/step_times.py`).
    """

    step: str
    action: Literal["build", "reuse"]
    why: str
    artifact: Artifact | None
    estimate: Estimate | TrainingEstimate | None = None
    cache: tuple[CacheAdvice, ...] = ()
    last_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """What all of it would take, if anything of it was measured: such a step here, or a probe."""
        if isinstance(self.estimate, Estimate):
            return self.estimate.seconds if self.estimate.is_measured else None
        if self.estimate is None:
            return self.last_seconds
        return None if self.estimate.seconds is None else self.estimate.seconds + (self.last_seconds or 0.0)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which steps are walked, which of them only if the store has them, and which are made anew."""

    walked: tuple[Request, ...]
    must_exist: frozenset[str]
    forced: frozenset[str]


def named(requests: Sequence[Request], step: str) -> frozenset[str]:
    """The steps that `step` means: one by its name, or all below `stage3`, `laion`.

    Raises:
        ConfigError: there is no such step; says which are nearest, and what lists all.
    """
    names = [request.name for request in requests]
    found = frozenset(name for name in names if name == step or name.startswith(f"{step}/"))
    if not found:
        raise ConfigError(f"there is no step {step}. {_meant(step, names)}\n  to list all steps  tinygptv plan")
    return found


def _meant(step: str, names: Sequence[str]) -> str:
    """The steps, or the groups of steps, that may have been meant."""
    groups = list(dict.fromkeys(name.partition("/")[0] for name in names))
    named_so = [name for name in names if name.partition("/")[2] == step]
    near = named_so or difflib.get_close_matches(step, names if "/" in step else groups, n=MOST_NAMES, cutoff=0.5)
    return (
        f"Did you mean {alternatives(near[:MOST_NAMES])}?" if near else "A step is named as in stage3/train or stage3."
    )


def upstream(requests: Sequence[Request], names: frozenset[str]) -> frozenset[str]:
    """`names` and everything that they are made from."""
    wanted = set(names)
    for request in reversed(requests):
        if request.name in wanted:
            wanted.update(source for source in request.inputs.values() if isinstance(source, str))
            wanted.update(request.aids.values())
    return frozenset(wanted)


def downstream(requests: Sequence[Request], names: frozenset[str]) -> frozenset[str]:
    """`names` and everything that is made from them."""
    reached = set(names)
    for request in requests:
        if any(source in reached for source in request.inputs.values() if isinstance(source, str)):
            reached.add(request.name)
    return frozenset(reached)


def select(
    requests: tuple[Request, ...], *, only: str | None, start_from: str | None, until: Sequence[str]
) -> Selection:
    """The steps of a run: without a target the last of `requests`, and what it is made from.

    Args:
        only: walk this step alone; what it is made from must be there.
        start_from: make this step and all that follows from it anew.
        until: walk these steps and what they are made from, nothing after them.

    Raises:
        ConfigError: a name that is no step, or `only` and `start_from` together.
    """
    if only and start_from:
        raise ConfigError("--only and --from exclude each other: name one step with one of them")
    forced = downstream(requests, named(requests, start_from)) if start_from else frozenset[str]()
    ends = (only,) if only else tuple(until) or (requests[-1].name,)
    targets = frozenset[str]().union(*(named(requests, end) for end in ends))
    needed = upstream(requests, targets)
    walked = tuple(request for request in requests if request.name in needed)
    return Selection(walked=walked, must_exist=needed - targets if only else frozenset(), forced=forced)


def given(requests: Sequence[Request], name: str, artifact: Artifact) -> tuple[Request, ...]:
    """`requests` with `artifact` in the place of what the step `name` would make."""
    return tuple(
        replace(request, inputs={key: artifact if item == name else item for key, item in request.inputs.items()})
        for request in requests
        if request.name != name
    )


def plan(store: Store, selection: Selection) -> tuple[Planned, ...]:
    """What a run of `selection` would do, step by step. Changes nothing."""
    planned: dict[str, Planned] = {}
    records_of = cache(store.records_of)  # many steps are of one kind, and its records may be thousands
    for request in selection.walked:
        is_forced = request.name in selection.forced
        one = _planned(store, request, planned, records_of, is_forced=is_forced)
        is_built = one.action == "build"
        planned[request.name] = _foreseen(store, request, one, planned, records_of) if is_built else one
    return tuple(planned.values())


def probed(selection: Selection, planned: Sequence[Planned], tell: Callable[[str], None]) -> tuple[Planned, ...]:
    """`planned` with what trying the steps for a moment says of them, for those whose inputs are there.

    Args:
        tell: told of each step that is tried.
    """
    there = {item.step: item.artifact for item in planned}
    found: list[Planned] = []
    for request, item in zip(selection.walked, planned, strict=True):
        measured = None
        if item.action == "build" and request.probe is not None:
            tell(f"trying {item.step} for a moment")
            aids = {name: there[made] for name, made in request.aids.items() if there[made] is not None}
            measured = request.probe({**resolve(request, there), **aids})
        found.append(replace(item, estimate=measured) if measured else item)
    return tuple(found)


def _foreseen(
    store: Store, request: Request, item: Planned, before: dict[str, Planned], records_of: RecordsOf
) -> Planned:
    """`item`, a step to be built, with what that would take."""
    there = {name: item.artifact for name, item in before.items()}
    estimate = request.estimate(resolve(request, there))
    if isinstance(estimate, Estimate):  # it is about the whole step
        return replace(item, estimate=estimate)
    return replace(item, estimate=estimate, last_seconds=seconds_last_time(request, store, records_of))


def _planned(
    store: Store, request: Request, before: dict[str, Planned], records_of: RecordsOf, *, is_forced: bool
) -> Planned:
    if request.lacks or is_forced:
        return Planned(step=request.name, action="build", why=request.lacks or FORCED, artifact=None)
    missing = [s for s in request.inputs.values() if isinstance(s, str) and before[s].artifact is None]
    if missing:
        return Planned(step=request.name, action="build", why=TO_BE_BUILT.format(missing[0]), artifact=None)
    inputs = resolve(request, {name: item.artifact for name, item in before.items()})
    known = store.lookup(request, inputs, records_of)
    action = "reuse" if known.artifact else "build"
    return Planned(step=request.name, action=action, why=known.why, artifact=known.artifact)


def resolve(request: Request, artifacts: Inputs) -> Inputs:
    """The request's inputs as artifacts, from those of the steps before it."""
    return {name: artifacts[source] if isinstance(source, str) else source for name, source in request.inputs.items()}


def lacking_files(selection: Selection) -> str | None:
    """What the user has to bring before the steps of `selection` can be built, all of it; None if nothing."""
    lacking = [request for request in selection.walked if request.lacks]
    if not lacking:
        return None
    steps: dict[str, list[str]] = {}
    for request in lacking:
        steps.setdefault(str(request.lacks), []).append(request.name)
    told = "\n".join(f"{', '.join(names)}: {lacks}" for lacks, names in steps.items())
    head = f"{len(lacking)} of {len(selection.walked)} steps lack files that you have to bring."
    if NO_FOLDER not in told:
        return f"{head}\n{told}"
    return "\n".join([head, told.replace(f"\n{NO_FOLDER}", ""), NO_FOLDER])


def check_present(selection: Selection, planned: Sequence[Planned], options: Sequence[str]) -> None:
    """Refuse a run with `--only` when something that comes before is not there.

    Args:
        options: what the person typed beside the step, for the command that helps.

    Raises:
        ConfigError: names what is missing and the command that builds it.
    """
    missing = [item for item in planned if item.step in selection.must_exist and item.action == "build"]
    if not missing:
        return
    target = next(request.name for request in selection.walked if request.name not in selection.must_exist)
    commands = [shlex.join([*command, *options]) for command in _commands(selection.walked, missing)]
    others = len(missing) - 1
    rest, them = (f" and {counted(others, 'other step')}", "them") if others else ("", "it")
    listed = f"\n{' ' * len(f'  to build {them}  ')}".join(commands)
    raise ConfigError(
        f"{target} is to be built alone, but {missing[0].step} ({missing[0].why}){rest} before it "
        f"{'are' if rest else 'is'} not in the store.\n  to build {them}  {listed}"
    )


def _commands(requests: Sequence[Request], missing: Sequence[Planned]) -> list[list[str]]:
    """The commands, in their order, that build all that is missing: last the steps that are only built alone."""
    commands = {item.step: _command(item.step) for item in missing}
    whole, built = list[list[str]](), frozenset[str]()
    for step, command in reversed(commands.items()):
        if "--only" in command or step in built:
            continue
        built |= upstream(requests, frozenset([step]))
        if command not in whole:
            whole.insert(0, command)
    return [*whole, *(command for step, command in commands.items() if "--only" in command and step not in built)]


def _command(step: str) -> list[str]:
    """The command that builds `step`: with what it is made from, or else (`--only`) alone."""
    group, _, work = step.partition("/")
    if work in ("rows", "filter", "fetch", "hash", "screen") or work.startswith("rate-"):
        return ["tinygptv", "data", group]
    return ["tinygptv", "train", group] if work == "train" else ["tinygptv", "run", "--only", step]
