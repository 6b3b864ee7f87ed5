"""Which version is the champion, who made it so and why; every change is kept, and can be taken back.

A change moves the alias, and writes tags of the registered model whose names nobody uses twice, the record of all of
them: one for each evaluation that was compared, and then the event. In PostgreSQL such a tag holds 5,000 characters.
What the version itself says of its promotion is a copy of the last.
"""

import getpass
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tasks.quantities import counted
from tasks.register import CHAMPION, mlflow_at
from tasks.registering.registry import CHECKPOINT_TAG, MODEL_TAG, Version, check_model, find, names, versions
from tasks.storing.lineage import is_digest
from tasks.storing.records import Records
from tinygptv_core.plain import ConfigError, from_plain

EVENT = "tinygptv.champion."
COMPARED = "tinygptv.compared."
MOST_CHARACTERS = 1_000
"""Of a reason: with all that JSON adds it fits into a tag."""
ANSWERS = "answers.jsonl"

Rule = Literal["never", "first", "better"]
"""When a run makes its version the champion: never; where there is none; or also where it is better (`is_better`)."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean over questions of the new score less the old one's, on the same questions, with its 95 % interval."""

    evaluation: str
    n: int
    before: float
    now: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two versions, question by question. `untold` says why there is nothing, or what could not be paired."""

    differences: tuple[Difference, ...]
    untold: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change of the champion.

    Attributes:
        at: when, in UTC, as ISO 8601 has it.
        by: user and host.
        before: the version that was the champion; None if none was.
    """

    action: Literal["promote", "rollback"]
    version: str
    before: str | None
    at: str
    by: str
    because: str
    comparison: Comparison | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule made of a version: the change of the champion, if there was one, and why, in words."""

    version: Version
    event: Event | None
    comparison: Comparison | None
    why: str


def promote(tracking_uri: str, reference: str, because: str, records: Records) -> Event | None:
    """Make a version the champion; None if it is already.

    Raises:
        ConfigError: `reference` names no version, the reason is too long, or the registry cannot be read.
    """
    _check(because)
    _check_version(tracking_uri, reference)
    version = find(tracking_uri, reference)
    champion = _champion(tracking_uri, version.name)
    if champion and champion.version == version.version:
        return None
    compared = compare(champion, version, records) if champion else None
    return _move(tracking_uri, version.name, _event("promote", version.version, champion, because, compared))


def _check_version(tracking_uri: str, reference: str) -> None:
    """Refuse a digest, which other commands take: of one checkpoint there may be several versions."""
    if not is_digest(reference):
        return
    every = [version for name in names(tracking_uri) for version in versions(tracking_uri, name)]
    made = [f"{v.name}/{v.version}" for v in every if _is_made_from(v, reference)]
    told = f"That is {' and '.join(made)}" if made else "No version was made from it"
    raise ConfigError(
        f"{reference} is the beginning of a digest, and a champion is a version of the registry. {told}.\n"
        "  name a version, as in  tinygptv promote tinygptv/3"
    )


def _is_made_from(version: Version, digest: str) -> bool:
    return any(version.tags.get(tag, "").startswith(digest) for tag in (MODEL_TAG, CHECKPOINT_TAG))


def promote_by_rule(
    rule: Rule, tracking_uri: str, version: Version, records: Records, *, compares: bool, run: str
) -> Verdict:
    """Make a version the champion if `rule` has it so.

    Args:
        compares: compare it with the champion even where the rule does not ask for that.
        run: who asks, for the record.

    Raises:
        ConfigError: the registry cannot be read.
    """
    champion = _champion(tracking_uri, version.name)
    if champion and champion.version == version.version:
        return Verdict(version=version, event=None, comparison=None, why="it is the champion already")
    compared = compare(champion, version, records) if champion and (compares or rule == "better") else None
    wins, why = _judged(rule, champion, compared)
    event = _event("promote", version.version, champion, f"{why}; run {run}", compared) if wins else None
    if event:
        _move(tracking_uri, version.name, event)
    return Verdict(version=version, event=event, comparison=compared, why=why)


def _judged(rule: Rule, champion: Version | None, compared: Comparison | None) -> tuple[bool, str]:
    if rule == "never":
        return False, "by the rule `never` a run promotes nothing"
    if champion is None:
        return True, f"by the rule `{rule}`: there was no champion"
    name = f"{champion.name}/{champion.version}"
    if rule == "first" or compared is None:
        return False, f"by the rule `{rule}` {name} stays the champion"
    if is_better(compared):
        return True, f"by the rule `better`: higher than {name} on an evaluation, and lower on none"
    return False, f"by the rule `better` {name} stays the champion: {_lacking(compared)}"


def is_better(compared: Comparison) -> bool:
    """Whether both were asked the same, and the mean score is lower on no evaluation and higher on one at least.

    A plain rule: that a difference may be chance is in its interval, which this does not look at.
    """
    found = [item.difference for item in compared.differences]
    return not compared.untold and bool(found) and min(found) >= 0 and max(found) > 0


def _lacking(compared: Comparison) -> str:
    if compared.untold or not compared.differences:
        return compared.untold or "they have no question in common"
    lower = [item.evaluation for item in compared.differences if item.difference < 0]
    return f"lower on {', '.join(lower)}" if lower else "no score is higher"


def rollback(tracking_uri: str, name: str, because: str) -> Event:
    """Make that version the champion again which was it before the last promotion that stands.

    Raises:
        ConfigError: there is no such model; no promotion stands, or the first alone; or somebody moved the alias since,
            or the version is gone; or the reason is too long.
    """
    _check(because)
    check_model(tracking_uri, name)
    champion = _champion(tracking_uri, name)
    told = events(tracking_uri, name)
    line = _line(told)
    if len(line) < 2:
        raise ConfigError(_nothing_before(name, told))
    if champion is None or champion.version != line[-1]:
        now = champion.version if champion else "none"
        raise ConfigError(
            f"by the record the champion is {name}/{line[-1]}, but it is {now}: somebody moved it by other means.\n"
            "  name the version that you want with  tinygptv promote"
        )
    find(tracking_uri, f"{name}/{line[-2]}")
    return _move(tracking_uri, name, _event("rollback", line[-2], champion, because, None))


def _nothing_before(name: str, told: Sequence[Event]) -> str:
    """Why there is no champion to go back to."""
    if not told:
        return f"no promotion of {name} is on record, so there is nothing to take back"
    if told[-1].action == "rollback":
        return (
            f"the last promotion of {name} was taken back already ({told[-1].at}), and no champion came before "
            f"{name}/{told[-1].version}.\n  name the version that you want with  tinygptv promote"
        )
    return (
        f"{name}/{told[-1].version} was the first champion of {name}: none came before it that could be it again.\n"
        "  name the version that you want with  tinygptv promote"
    )


def _check(because: str) -> None:
    if len(because) > MOST_CHARACTERS:
        raise ConfigError(
            f"--because has {len(because):,} characters; {MOST_CHARACTERS:,} are kept at most. Say it in a file, and "
            "name that"
        )


def _line(told: Sequence[Event]) -> list[str]:
    """The champions one after another, without those that were taken back."""
    line: list[str] = []
    for event in told:
        if event.action == "rollback":
            line.pop()
            continue
        if event.before and (not line or line[-1] != event.before):
            line.append(event.before)
        line.append(event.version)
    return line


def events(tracking_uri: str, name: str) -> tuple[Event, ...]:
    """Every change of the champion, the oldest first."""
    with mlflow_at(tracking_uri) as mlflow:
        tags: Mapping[str, str] = mlflow.MlflowClient(tracking_uri, tracking_uri).get_registered_model(name).tags
    names = sorted(key.removeprefix(EVENT) for key in tags if key.startswith(EVENT))
    return tuple(_read(tags, name) for name in names)


def _read(tags: Mapping[str, str], name: str) -> Event:
    """The event of that name, with what was compared for it."""
    event = from_plain(Event, json.loads(tags[f"{EVENT}{name}"]))
    if event.comparison is None:
        return event
    place = f"{COMPARED}{name}."
    numbers = sorted(int(key.removeprefix(place)) for key in tags if key.startswith(place))
    found = tuple(from_plain(Difference, json.loads(tags[f"{place}{number}"])) for number in numbers)
    return replace(event, comparison=replace(event.comparison, differences=found))


def _tags(name: str, event: Event) -> Iterator[tuple[str, str]]:
    """Name and value of the tags that keep an event: itself last, without which the others say nothing."""
    compared = event.comparison
    for number, difference in enumerate(compared.differences if compared else ()):
        yield f"{COMPARED}{name}.{number}", json.dumps(asdict(difference), ensure_ascii=False)
    kept = replace(event, comparison=replace(compared, differences=()) if compared else None)
    yield f"{EVENT}{name}", json.dumps(asdict(kept), ensure_ascii=False)


def _champion(tracking_uri: str, name: str) -> Version | None:
    return next((version for version in versions(tracking_uri, name) if CHAMPION in version.aliases), None)


def _event(
    action: Literal["promote", "rollback"],
    version: str,
    champion: Version | None,
    because: str,
    compared: Comparison | None,
) -> Event:
    return Event(
        action=action,
        version=version,
        before=champion.version if champion else None,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=f"{_user()} on {platform.node()}",
        because=because,
        comparison=compared,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        return f"user {os.getuid()}"


def _move(tracking_uri: str, name: str, event: Event) -> Event:
    """Write the event down and move the alias: in this order, so that no change is without its record."""
    with mlflow_at(tracking_uri) as mlflow:
        client: Any = mlflow.MlflowClient(tracking_uri, tracking_uri)
        for key, value in _tags(f"{time.time_ns():020d}.{os.getpid()}", event):
            client.set_registered_model_tag(name, key, value)
        for what in ("action", "at", "by", "because"):
            client.set_model_version_tag(name, event.version, f"tinygptv.champion_{what}", getattr(event, what))
        client.set_registered_model_alias(name, CHAMPION, event.version)
    return event


def compare(before: Version, now: Version, records: Records) -> Comparison:
    """The scores of two versions on the questions that both were asked: a plain paired comparison, no gate."""
    old, new = (_scores(version, records) for version in (before, now))
    for version, folder in ((before, old), (now, new)):
        if folder is None:
            told = f"not compared: the answers of {version.name}/{version.version} are not on this home"
            return Comparison(differences=(), untold=told)
    assert old is not None and new is not None
    if sets := _other_sets(old, new, records):
        return Comparison(differences=(), untold=f"not compared: they were asked about different data ({sets})")
    return _paired(_answers(old / ANSWERS), _answers(new / ANSWERS))


def _scores(version: Version, records: Records) -> Path | None:
    """The folder of the version's own scores: those of the stage whose checkpoint it is."""
    checkpoint, works = version.tags.get(CHECKPOINT_TAG), version.tags.items()
    stages = [key.removesuffix("/train") for key, digest in works if key.endswith("/train") and digest == checkpoint]
    digest = next((version.tags[f"{stage}/evaluate"] for stage in stages if f"{stage}/evaluate" in version.tags), None)
    return records.folder(digest) if digest else None


def _other_sets(old: Path, new: Path, records: Records) -> str:
    """The data that one of two evaluations read and the other did not, as far as records say."""
    read: list[dict[str, str | None]] = []
    for folder in (old, new):
        made = [record for record in records.all if record.digest.startswith(folder.name)]
        inputs = made[0].inputs if made else {}
        read.append({role: digest for role, digest in inputs.items() if role.partition(".")[0] in ("shards", "index")})
    if not all(read):
        return ""
    return ", ".join(sorted(role for role in {**read[0], **read[1]} if read[0].get(role) != read[1].get(role)))


def _answers(path: Path) -> dict[tuple[str, str, str], float]:
    """(evaluation, key, question) -> score."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {(line["eval"], line["key"], line["question"]): float(line["score"]) for line in lines}


def _paired(old: Mapping[tuple[str, str, str], float], new: Mapping[tuple[str, str, str], float]) -> Comparison:
    from tinygptv_core.answering.intervals import bootstrap

    both = sorted(old.keys() & new.keys())
    found: list[Difference] = []
    for evaluation in dict.fromkeys(name for name, _, _ in both):
        asked = [question for question in both if question[0] == evaluation]
        told = bootstrap([new[question] - old[question] for question in asked])
        means = {what: sum(of[q] for q in asked) / len(asked) for what, of in (("before", old), ("now", new))}
        bounds = {"difference": told.value, "low": told.low, "high": told.high}
        found.append(Difference(evaluation=evaluation, n=len(asked), **means, **bounds))
    alone = len(old.keys() ^ new.keys())
    untold = f"put to one of them alone: {counted(alone, 'question')}" if alone else ""
    return Comparison(differences=tuple(found), untold=untold)


def in_words(name: str, event: Event) -> str:
    """A change of the champion, for people."""
    before = f"{name}/{event.before}" if event.before else "none"
    lines = [f"{name}/{event.version} is the champion; before: {before} ({event.action}, by {event.by}, {event.at})"]
    return "\n".join([*lines, *comparison_lines(event.comparison)])


def comparison_lines(compared: Comparison | None) -> list[str]:
    """A comparison for people; nothing of none."""
    if compared is None:
        return []
    lines = [
        f"  {item.evaluation:24s} {item.before:.3f} -> {item.now:.3f}: "
        f"{item.difference:+.3f} ({item.low:+.3f} to {item.high:+.3f}), n {item.n}"
        for item in compared.differences
    ]
    if lines:
        lines.insert(0, "the champion so far -> this version, on the same questions: paired, 95 % by bootstrap")
    return [*lines, *filter(None, [compared.untold])]


def verdict_words(verdict: Verdict) -> str:
    """What a rule made of a version, for people."""
    version, event = verdict.version, verdict.event
    if event:
        return f"{in_words(version.name, event)}\n{verdict.why}"
    return "\n".join([f"{version.name}/{version.version}: {verdict.why}", *comparison_lines(verdict.comparison)])
