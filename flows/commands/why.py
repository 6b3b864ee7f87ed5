"""Why a step is built or reused: what its request is now, and in what it differs from the nearest earlier build."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.choosing.choice import Prepared
from flows.plan import Planned, named, resolve
from flows.provenance import noted
from tasks.request import SHORT, Request
from tasks.storing.differences import Change, CurrentRun, Differences, in_short, short_commit
from tasks.storing.records import Record, Records, clock
from tinygptv_core.plain import leaves

OF_THE_RUN = ("run", "time", "argv", "seconds", "aids")
"""Of what is noted, what every run has of its own."""


@dataclass(frozen=True, kw_only=True)
class StepExplanation:
    """One step.

    Attributes:
        key: of the request as it is now; None while an input of it is still to be built.
        record: of what is reused; else the nearest earlier build of that name, if there is one.
        changes: in what the request differs from that one.
        noted: in what the run would differ that bears on no key.
    """

    step: str
    action: str
    why: str
    key: str | None
    record: Record | None
    changes: tuple[Change, ...]
    noted: tuple[Change, ...]


def explain(prepared: Prepared, step: str) -> tuple[StepExplanation, ...]:
    """The steps that `step` means.

    Raises:
        ConfigError: there is no such step; says which there are.
    """
    requests = {request.name: request for request in prepared.selection.walked}
    planned = {item.step: item for item in prepared.planned}
    environment, records = prepared.environment, Records(prepared.environment.store)
    told = noted(environment.run, environment.options)
    now = CurrentRun(
        requests=requests,
        artifacts={name: item.artifact for name, item in planned.items()},
        whys={name: item.why for name, item in planned.items()},
        commit=told["commit"],
    )
    found = _Found(prepared, now, records, told)
    wanted = named(prepared.selection.walked, step)
    return tuple(found.explained(requests[name], planned[name]) for name in requests if name in wanted)


class _Found:
    def __init__(self, prepared: Prepared, now: CurrentRun, records: Records, told: Mapping[str, Any]) -> None:
        self.store, self.now, self.records, self.told = prepared.environment.store, now, records, told
        self.differences = Differences(now, records)

    def explained(self, request: Request, planned: Planned) -> StepExplanation:
        inputs = resolve(request, self.now.artifacts)
        waits = any(isinstance(source, str) and inputs[name] is None for name, source in request.inputs.items())
        key = None if waits else self.store.key(request, inputs)
        record = (self.records.of_key(key) if key else None) or self.differences.nearest(request)
        return StepExplanation(
            step=request.name,
            action=planned.action,
            why=planned.why,
            key=key,
            record=record,
            changes=self.differences.changes(request, record) if record else (),
            noted=tuple(self._unkeyed(request, record)) if record else (),
        )

    def _unkeyed(self, request: Request, record: Record) -> Iterator[Change]:
        """In what the notes of `record` differ from those of a run that began now."""
        for name, source in request.aids.items():
            artifact, former = self.now.artifacts[source], record.aids.get(name)
            if artifact and former and artifact.digest != former:
                yield Change(name=f"{name} (an aid)", before=former[:SHORT], now=artifact.digest[:SHORT])
        then = leaves({name: value for name, value in record.noted.items() if name not in OF_THE_RUN})
        for name, now in leaves(self.told).items():
            if name not in OF_THE_RUN and name in then and then[name] != now:
                before, now = (short_commit(value) if name == "commit" else value for value in (then[name], now))
                yield Change(name=name.removeprefix("versions.").replace("_", " "), before=before, now=now)


def for_machines(item: StepExplanation) -> dict[str, Any]:
    """One step, for JSON."""
    return {**asdict(item), "in_short": in_short(item.changes)}


def in_words(item: StepExplanation) -> str:
    """One step, for people."""
    head = [f"{item.step}: {item.action}"]
    if item.action == "reuse" and item.record:
        head += [f"  {item.why}", *_origin(item.record)]
    else:
        head += [f"  {line}" for line in item.why.splitlines()]
        head += list(_compared(item)) if item.record else []
    if item.noted:
        head.append(f"  noted, not in the key: {'; '.join(map(str, item.noted))}")
    return "\n".join(head)


def _origin(record: Record) -> list[str]:
    """Where what is reused came from."""
    told = record.noted
    versions = {"Python": told.get("python"), **told.get("versions", {})}
    command = shlex.join(["tinygptv", *told.get("argv", [])])
    engine = f"; engine {told['engine']}, {told['world_size']} processes" if "engine" in told else ""
    return [
        f"  digest {record.digest[:SHORT]}, key {record.key[:SHORT]}, step version {record.version}",
        f"  made in run {told['run']}, begun {clock(record.time)}, on {told.get('host')}, in {told['seconds']:.1f} s",
        f"  by      {command}",
        f"  commit  {short_commit(told.get('commit'))}",
        f"  with    {', '.join(f'{name} {value}' for name, value in versions.items() if value)}{engine}",
    ]


def _compared(item: StepExplanation) -> Iterator[str]:
    assert item.record is not None
    before, begun = item.record, clock(item.record.time)
    yield f"  the nearest earlier build: {before.digest[:SHORT]} of run {before.noted['run']}, begun {begun}"
    if not item.changes:
        yield "  its request was the same"
        return
    yield "  what differs:"
    yield from _tree(item.changes, "    ", set())
    if any(change.because for change in item.changes):
        yield f"  in short: {in_short(item.changes)}"


def _tree(changes: Sequence[Change], indent: str, told: set[str]) -> Iterator[str]:
    for change in changes:
        yield f"{indent}{change}"
        if change.because and change.step in told:
            yield f"{indent}  because of {change.step}, as above"
        elif change.because:
            told.add(str(change.step))
            yield f"{indent}  because of {change.step}:"
            yield from _tree(change.because, f"{indent}    ", told)
