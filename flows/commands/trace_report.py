"""`tinygptv lineage --url U`: where pictures went, and what a run without them would build."""

import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flows.choosing.choice import Choice, prepare, typed
from flows.plan import downstream
from tasks.build import Store
from tasks.filter import FILTER
from tasks.filtering.removals import NO_REMOVALS, Removals, read_removals
from tasks.quantities import counted, first_of
from tasks.registering.registry import names, versions
from tasks.request import SHORT
from tasks.screen import SCREEN
from tasks.storing.records import Records
from tasks.storing.traces import SAME_BYTES, Holding, PictureUse, Traces
from tasks.tables import KEPT
from tasks.train import TRAIN
from tasks.typed_paths import typed_path
from tinygptv_core.plain import ConfigError

SHOWN_ROWS = 20
SHOWN_STEPS = 10
SHOWN_MISSING = 3


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """What a run without the pictures would do.

    Attributes:
        command: that run: the choice that was asked with, and the list.
        preset: of that run.
        builds: what it builds.
        looks_again: filters and screens that read the list, and make what they made before if it names none of theirs.
        may_build: what follows from these, if the list names rows of theirs that were never fetched.
        unread: the data sets with some of the pictures that it does not read: other options are wanted.
        read_by: the commands that did, as far as records say.
    """

    command: str
    preset: str
    builds: tuple[str, ...]
    looks_again: tuple[str, ...]
    may_build: tuple[str, ...]
    unread: tuple[str, ...]
    read_by: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PictureTrace:
    """Everything that is told of some pictures."""

    wanted: Removals
    traces: Traces
    holdings: tuple[Holding, ...]
    rerun: Rerun


def trace_pictures(choice: Choice, urls: Sequence[str], tracking_uri: str, store: Store) -> PictureTrace:
    """Where the pictures went that `urls` and the choice's removal list name, and what a run without them builds.

    Raises:
        ConfigError: the list or the registry cannot be read, or what is given as a URL is none.
    """
    if strange := [url for url in urls if not url.lower().startswith(("http://", "https://"))]:
        raise ConfigError(f"--url {strange[0]}: a URL begins with http:// or https://, as in the list that named it")
    listed = read_removals(typed_path(choice.removal_list)) if choice.removal_list else NO_REMOVALS
    wanted = replace(listed, urls=listed.urls | frozenset(urls))
    traces = Traces(Records(store), wanted)
    registered = [version for name in names(tracking_uri) for version in versions(tracking_uri, name)]
    rerun = _rerun(choice, urls, traces)
    return PictureTrace(wanted=wanted, traces=traces, holdings=traces.holding(registered), rerun=rerun)


def _rerun(choice: Choice, urls: Sequence[str], traces: Traces) -> Rerun:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "removals.txt"
        before = typed_path(choice.removal_list).read_bytes() if choice.removal_list and not urls else None
        path.write_bytes(before or b"")
        if before is None:
            path.write_text(_as_list(choice.removal_list, urls))
        prepared = prepare(replace(choice, removal_list=str(path)), writes=False)
    steps = {item.step for item in prepared.planned if item.action == "build"}
    looks = frozenset(s for s in steps if s.partition("/")[2] in (FILTER.name, SCREEN.name))
    changed = frozenset(
        f"{data}/{SCREEN.name if row.by == 'sha256' else FILTER.name}"
        for row in traces.rows
        if row.by != SAME_BYTES
        for data in row.ledger.data
    )
    walked = prepared.selection.walked
    builds = downstream(walked, changed & looks) & steps
    order = [request.name for request in walked if request.name in steps]
    unread = {data for row in traces.rows for data in row.ledger.data}
    unread -= {request.name.partition("/")[0] for request in walked}
    named = choice.removal_list if choice.removal_list and not urls else "FILE"
    return Rerun(
        command=shlex.join(["tinygptv", "run", *typed(replace(choice, removal_list=named))]),
        preset=prepared.preset.name,
        builds=tuple(name for name in order if name in builds),
        looks_again=tuple(name for name in order if name in looks - builds),
        may_build=tuple(name for name in order if name not in looks | builds),
        unread=tuple(sorted(unread)),
        read_by=tuple(_read_by(unread, traces)),
    )


def _read_by(unread: AbstractSet[str], traces: Traces) -> Iterator[str]:
    """The commands that made what lies of these data sets, each once."""
    shards = {digest for row in traces.rows if unread & set(row.ledger.data) for digest in row.ledger.shards}
    made = [record for digest in sorted(shards) for record in traces.records.of_digest(digest)]
    typed_then = [record.noted.get("argv") for record in made if record.group in unread]
    return iter(dict.fromkeys(shlex.join(["tinygptv", *words]) for words in typed_then if words))


def _as_list(removal_list: str | None, urls: Sequence[str]) -> str:
    """A removal list of everything that is asked for."""
    named = read_removals(typed_path(removal_list)) if removal_list else NO_REMOVALS
    kinds = {"sha256": named.sha256, "phash": named.phash}
    lines = [*sorted(named.urls | frozenset(urls)), *sorted(named.hosts)]
    return "\n".join([*lines, *(f"{kind}:{value}" for kind, values in kinds.items() for value in sorted(values))])


def for_machines(tracked: PictureTrace) -> dict[str, Any]:
    """All of it, for JSON. Rows are numbered from 0 in `rows`, and referred to by these numbers."""
    traces, wanted = tracked.traces, tracked.wanted
    return {
        "asked": {kind: len(getattr(wanted, kind)) for kind in ("urls", "hosts", "sha256", "phash")},
        "not_found": _not_found(tracked),
        "rows": [
            {
                "data": list(row.ledger.data),
                "shards": list(row.ledger.shards),
                **{name: getattr(row, name) for name in ("row", "key", "url", "sha256", "fate", "by")},
                "screened": {index: fates[at] for index, fates in traces.screened.items() if at in fates},
            }
            for at, row in enumerate(traces.rows)
        ],
        "reads": [
            {
                "step": read.record.name,
                "digest": read.record.digest,
                "rows": {str(at): list(steps) if steps is not None else None for at, steps in read.rows.items()},
                "held_out": sorted(read.held_out),
            }
            for read in traces.reads
        ],
        "checkpoints": [
            {"step": record.name, "digest": digest, "goes_on_from": record.inputs.get("init")}
            for digest, record in traces.checkpoints.items()
        ],
        "versions": [
            {
                "version": _version(item),
                "aliases": list(item.version.aliases),
                **{name: sorted(getattr(item, name)) for name in ("trained", "asked", "named")},
            }
            for item in tracked.holdings
        ],
        "rerun": asdict(tracked.rerun),
    }


def _not_found(tracked: PictureTrace) -> list[str]:
    return sorted(tracked.wanted.urls - {row.url for row in tracked.traces.rows})


def _version(item: Holding) -> str:
    return f"{item.version.name}/{item.version.version}"


def in_words(tracked: PictureTrace) -> str:
    """All of it, for people."""
    parts: Sequence[Callable[[PictureTrace], Iterator[str]]] = (_about, _rows, _uses, _holdings, _without)
    return "\n".join(line for part in parts for line in part(tracked))


def _about(tracked: PictureTrace) -> Iterator[str]:
    traces, wanted = tracked.traces, tracked.wanted
    named = [row for row in traces.rows if row.by != SAME_BYTES]
    alike = len(traces.rows) - len(named)
    data = sorted({name for row in named for name in row.ledger.data})
    rows, sets = counted(len(named), "row"), counted(len(data), "data set")
    yield f"{rows} of {sets} ({', '.join(data) or 'none'}), and {alike} with the same bytes"
    if missing := _not_found(tracked):
        urls, shown = counted(len(missing), "URL"), first_of(missing, SHOWN_MISSING, ", ")
        yield f"{urls} of {len(wanted.urls)} in no ledger; nothing was fetched for {shown}"
    if wanted.phash:
        yield f"perceptual hashes, not looked for here: {len(wanted.phash)}; a run with the list compares every image"


def _rows(tracked: PictureTrace) -> Iterator[str]:
    traces = tracked.traces
    for at, row in enumerate(traces.rows[:SHOWN_ROWS]):
        screened = {fates[at] for fates in traces.screened.values() if at in fates}
        fate = row.fate if row.fate != KEPT or not screened else " or ".join(sorted(screened))
        yield f"{row.url or row.key}  ({row.by})"
        told = f"kept, sha256 {row.sha256}" if fate == KEPT else f"not kept: {fate}"
        shards = ", ".join(digest[:SHORT] for digest in row.ledger.shards)
        yield f"  {', '.join(row.ledger.data)} {row.key}: {told}; shards {shards}"
        for read in traces.reads:
            if read.record.step == TRAIN.name and at in read.rows:
                yield f"  {read.record.name} {read.record.digest[:SHORT]}: {_drawn(read, at)}"
    if len(traces.rows) > SHOWN_ROWS:
        yield f"... {len(traces.rows) - SHOWN_ROWS} more; --json has all of them"


def _drawn(read: PictureUse, at: int) -> str:
    steps = read.rows[at]
    if at in read.held_out:
        return "held out of training: only the loss is measured on it"
    if steps is None:
        return "in the mix; which steps drew it is not known of this run"
    if not steps:
        return "in the mix, drawn by no step"
    return f"drawn in steps {', '.join(map(str, steps[:SHOWN_STEPS]))}{' ...' if len(steps) > SHOWN_STEPS else ''}"


def _uses(tracked: PictureTrace) -> Iterator[str]:
    traces = tracked.traces
    drawn = {
        r.record.digest: sum(bool(s) for s in r.rows.values()) for r in traces.reads if r.record.step == TRAIN.name
    }
    for digest, record in traces.checkpoints.items():
        if digest in drawn:
            reads = next(read for read in traces.reads if read.record.key == record.key)
            yield f"checkpoint {digest[:SHORT]} ({record.name}): {len(reads.rows)} in its mix, {drawn[digest]} drawn"
        else:
            yield f"checkpoint {digest[:SHORT]} ({record.name}): goes on from one that had some in its mix"
    others = Counter(
        {(r.record.name, r.record.digest): len(r.rows) for r in traces.reads if r.record.step != TRAIN.name}
    )
    for (name, digest), count in sorted(others.items()):
        yield f"{name} {digest[:SHORT]}: {count} in what it read"


def _holdings(tracked: PictureTrace) -> Iterator[str]:
    for item in tracked.holdings:
        counts = f"{len(item.named)} in its ledgers, {len(item.trained)} trained on, {len(item.asked)} asked about"
        yield f"version {_version(item)} ({', '.join(item.version.aliases) or 'no alias'}): {counts}"
    if not tracked.holdings:
        yield "no registered version came from any of them"


def _without(tracked: PictureTrace) -> Iterator[str]:
    rerun = tracked.rerun
    yield f"without them, for the preset {rerun.preset}: {rerun.command}"
    yield f"  builds {counted(len(rerun.builds), 'step')}: {', '.join(rerun.builds) or 'none'}"
    if rerun.unread:
        names = ", ".join(rerun.unread)
        yield f"  it does not read {names}, where some of them are; give the options that do as well, of:"
        yield from (f"    {command}" for command in rerun.read_by[:SHOWN_STEPS] or ("no record says which run did",))
    if rerun.looks_again:
        yield f"  looks again at {len(rerun.looks_again)} filters and screens: {', '.join(rerun.looks_again)}"
    if rerun.may_build:
        yield f"  {counted(len(rerun.may_build), 'further step')}, if these leave out rows that were never fetched"
    alike = {row.sha256 for row in tracked.traces.rows if row.by == SAME_BYTES} - tracked.wanted.sha256
    if alike:
        shown = counted(len(alike), "picture")
        yield f"  still there under other URLs, unless the list names the bytes: {shown}, as in:"
        yield from (f"    sha256:{digest}" for digest in sorted(filter(None, alike))[:SHOWN_STEPS])
