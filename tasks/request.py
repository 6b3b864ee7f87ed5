"""What is asked of the store: a step, what bears on it, and in what two such requests differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from tasks.quantities import cut, first_of
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import leaves, plain

T = TypeVar("T")

Inputs = Mapping[str, Artifact | None]

SHORT = 12
"""Digits of a digest where it names a folder, or is told."""
MOST_CHARACTERS = 60
"""Of a value that is told."""
MOST_CHANGES = 5
"""That are told on one line."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A kind of work: its name, the kind of artifact it makes, and the version of its code.

    The version is raised whenever the same request would write other bytes.
    """

    name: str
    kind: str
    version: int


@dataclass(frozen=True, kw_only=True)
class StepFolders:
    """The three folders that a step writes to; all exist when it starts.

    Attributes:
        out: becomes the artifact. Empty, or as a killed build of the same key left it.
        scratch: survives a kill, is removed when the step is done: optimizer, partial downloads.
        notes: kept, hashed nowhere: metrics.jsonl, logs, summary.json.
        forced: it is made anew although the store has it.
    """

    out: Path
    scratch: Path
    notes: Path
    forced: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a step would take, before it begins.

    Attributes:
        rows: what it would fetch.
        is_bound: it may be less: how many there are is not known yet.
        bytes: what it would leave on disk.
        is_measured: by what such steps took before; else by what is generally known.
    """

    rows: int
    is_bound: bool
    bytes: int
    seconds: float
    is_measured: bool


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """What it would take to train a stage, before it begins.

    Attributes:
        seconds: of its steps, evaluation and the start of processes apart; None where nothing was measured.
        memory_bytes: the most that a process would hold; by arithmetic the least.
        disk_bytes: of its states and its checkpoint.
        by: what was measured, or that nothing was.
        note: what else is worth knowing of it, in words.
    """

    seconds: float | None
    memory_bytes: float
    disk_bytes: int
    by: Literal["last run", "probe", "arithmetic"]
    note: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One artifact that is wanted.

    Attributes:
        name: as people say it: `stage3/train`.
        config: the part of the configuration that the step reads.
        inputs: input name -> the name of the request that makes it, a user's file, or nothing.
        aids: the same of what only spares work: it bears on nothing but last bits, and is in no key.
        work: makes it: inputs and aids as artifacts, and where to write.
        gone: what makes a built artifact useless all the same, in words (a registry that lost it).
        lacks: which file of the user's is missing and how it is got, in words; the step cannot be built without.
        estimate: what it would take, by those of its inputs that are there.
        probe: the same from trying it for a moment, where it can be tried; gives None where too little is there.
    """

    name: str
    step: Step
    config: Any
    inputs: Mapping[str, "str | Artifact | None"]
    work: Callable[[Mapping[str, Artifact], StepFolders], None] = field(repr=False)
    gone: Callable[[Artifact], str | None] = field(repr=False, default=lambda artifact: None)
    aids: Mapping[str, str] = field(default_factory=dict)
    lacks: str | None = None
    estimate: "Callable[[Inputs], Estimate | TrainingEstimate | None]" = field(repr=False, default=lambda inputs: None)
    probe: "Callable[[Inputs], TrainingEstimate | None] | None" = field(repr=False, default=None)


def request_identity(request: Request, inputs: Inputs) -> dict[str, Any]:
    """What a request asks for, as it is hashed: step, version, config and the digests of the inputs."""
    step = request.step
    return {
        "step": step.name,
        "version": step.version,
        "config": plain(request.config, identity=True),
        "inputs": digests(inputs),
    }


def digests(inputs: Inputs) -> dict[str, str | None]:
    """By input its digest; None where there is no such input."""
    return {name: artifact.digest if artifact else None for name, artifact in inputs.items()}


def nearest(now: Mapping[str, Any], earlier: Sequence[T], told: Callable[[T], Mapping[str, Any]]) -> T | None:
    """Of earlier requests that which differs from `now` in the fewest values, the first of several; None of none.

    Args:
        told: what such a request asked for.
    """
    wanted = flat(now)
    return min(earlier, key=lambda request: len(changed_names(flat(told(request)), wanted)), default=None)


def flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a request, its `request_identity` or as it was noted, by name; an input's is its digest, whatever
    dots its name has."""
    inputs = {f"inputs.{name}": digest for name, digest in told["inputs"].items()}
    return leaves({name: told[name] for name in ("step", "version", "config")}) | inputs


def changed_names(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names of the values that differ between two requests."""
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, how what one request asked for differs from what another did."""
    before, after = flat(old), flat(new)
    told = dict.fromkeys(_differs(name, before, after) for name in changed_names(before, after))
    return first_of(list(told), MOST_CHANGES, "; ")


def _differs(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How a value differs; of a group that only one of the two has, that it does."""
    if name.startswith("config.") and (group := _alone(name, before if name in before else after, before, after)):
        return f"{group} is gone" if name in before else f"{group} is new"
    return f"{name} {_short(name, before.get(name))} -> {_short(name, after.get(name))}"


def _alone(name: str, has: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The largest group around a value that the other request has nothing of; None where there is none."""
    other = after if has is before else before
    parts = name.split(".")
    groups = (".".join(parts[:depth]) for depth in range(2, len(parts)))
    return next((g for g in groups if not any(o == g or o.startswith(f"{g}.") for o in other)), None)


def shortened(value: object) -> str:
    """A value of a request, for people."""
    return cut("nothing" if value is None else str(value), MOST_CHARACTERS, "...")


def _short(name: str, value: str | None) -> str:
    return shortened(value[:SHORT] if value and name.startswith("inputs.") else value)
