"""In what a request differs from an earlier build of its name, and in what the steps before it do: in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.quantities import first_of
from tasks.request import (
    MOST_CHANGES,
    SHORT,
    Inputs,
    Request,
    changed_names,
    flat,
    nearest,
    request_identity,
    shortened,
)
from tasks.storing.records import Record, Records

TO_BE_BUILT = "to be built"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that differs.

    Attributes:
        name: `schedule.peak`, `step version`, or of an input `laion shards`.
        step: of an input, the step that makes it; None for everything else.
        because: of an input, in what that step's request differs from what gave the former.
        note: what else is known of it.
    """

    name: str
    before: Any
    now: Any
    step: str | None = None
    because: "tuple[Change, ...]" = ()
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.name} {shortened(self.before)} -> {shortened(self.now)}{note}"


@dataclass(frozen=True, kw_only=True)
class CurrentRun:
    """What is asked for now.

    Attributes:
        requests: the steps by name, each after those that it reads.
        artifacts: step -> what the store has of it; None where that is still to be built.
        whys: step -> why it is built or reused.
        commit: which code asks.
    """

    requests: Mapping[str, Request]
    artifacts: Inputs
    whys: Mapping[str, str]
    commit: str | None


class Differences:
    """Compares what is asked for now with what the store has noted."""

    def __init__(self, now: CurrentRun, records: Records) -> None:
        self.now, self.records = now, records
        self._found: dict[tuple[str, str], tuple[Change, ...]] = {}

    def nearest(self, request: Request) -> Record | None:
        """The earlier build of that name that differs in the fewest values; of several the newest."""
        return nearest(self._asked(request), self.records.named(request.name), _of)

    def changes(self, request: Request, before: Record) -> tuple[Change, ...]:
        """In what `request` differs from `before`, and why its inputs do."""
        place = request.name, before.key
        if place not in self._found:
            self._found[place] = tuple(self._changes(request, before))
        return self._found[place]

    def _changes(self, request: Request, before: Record) -> Iterator[Change]:
        then, now = _of(before), self._asked(request)
        old, new = flat(then), flat(now)
        for name in changed_names(old, new):
            group, _, rest = name.partition(".")
            if group == "inputs":
                yield self._input(request, rest, before, now["inputs"].get(rest))
            elif group == "config":
                yield Change(name=rest.removeprefix("stage.") or group, before=old.get(name), now=new.get(name))
            else:
                commits = f"commit {short_commit(before.noted.get('commit'))} -> {short_commit(self.now.commit)}"
                label = "step" if name == "step" else f"step {name}"
                yield Change(name=label, before=old.get(name), now=new.get(name), note=commits)

    def _input(self, request: Request, name: str, before: Record, digest: str | None) -> Change:
        source, former = request.inputs.get(name), before.inputs.get(name)
        change = Change(name=_role(name), before=former and former[:SHORT], now=digest and digest[:SHORT])
        if not isinstance(source, str):
            return replace(change, note=f"the file {source.path}" if source else "")
        change, step = replace(change, step=source), source
        maker = self.records.made(former, before, step) if former else None
        if former and (maker is None or maker.name != step):
            told = f"made by {maker.name} then" if maker else "what made it then is not noted here"
            return replace(change, note=told)
        because = self.changes(self.now.requests[step], maker) if maker else ()
        return replace(change, because=because, note="" if because else self._unlike(step, digest))

    def _unlike(self, step: str, digest: str | None) -> str:
        """Why the same request gives something else."""
        if digest == TO_BE_BUILT:
            return self.now.whys[step].partition("\n")[0]
        made = self.records.made(digest, None, step) if digest else None
        return f"the same request gave other bytes in run {made.noted['run']}" if made else ""

    def _asked(self, request: Request) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            name: self.now.artifacts[source] if isinstance(source, str) else source
            for name, source in request.inputs.items()
        }
        told = request_identity(request, inputs)
        missing = [name for name, source in request.inputs.items() if isinstance(source, str) and not inputs[name]]
        return {**told, "inputs": {**told["inputs"], **dict.fromkeys(missing, TO_BE_BUILT)}}


def _of(record: Record) -> dict[str, Any]:
    return {"step": record.step, "version": record.version, "config": record.config, "inputs": record.inputs}


def _role(name: str) -> str:
    """`shards.laion` as people say it: laion shards."""
    kind, dot, of = name.partition(".")
    return f"{of} {kind}" if dot else kind


def short_commit(commit: str | None) -> str:
    """A commit as it is told: its first digits, and whether files differed from it."""
    return commit[:SHORT] + ("+" if commit.endswith("+") else "") if commit else "unknown"


def roots(change: Change) -> Iterator[Change]:
    """What lies at the bottom of a change: itself, where nothing before it differs."""
    if not change.because:
        yield change
    for cause in change.because:
        yield from roots(cause)


def in_short(changes: Sequence[Change]) -> str:
    """On one line, of many the first: inputs that differ for the same reasons are told together."""
    told = [str(change) for change in changes if not change.because]
    grouped: dict[str, list[str]] = {}
    for change in changes:
        if change.because:
            why = first_of(list(dict.fromkeys(map(str, roots(change)))), MOST_CHANGES, ", ")
            grouped.setdefault(why, []).append(str(change))
    inputs = [f"{first_of(names, MOST_CHANGES, ', ')} because {why}" for why, names in grouped.items()]
    return "; ".join(filter(None, [first_of(told, MOST_CHANGES, "; "), first_of(inputs, MOST_CHANGES, "; ")]))
