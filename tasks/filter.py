"""Rows that need not be fetched go: wrong addresses, too few or too many words, repeated ones, what is to be removed.

Rows are judged many at a time, by what is known of each (`filtering/facts.py`).
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.filtering.facts import Facts, facts_of, texts_of
from tasks.filtering.removals import Removals
from tasks.filtering.repeats import Repeats
from tasks.hosts import canonical_host
from tasks.request import Step, StepFolders
from tasks.tables import (
    DROPPED_FILE,
    ROWS_FILE,
    SIZE,
    Drop,
    TableRow,
    TableWriter,
    Tally,
    clear,
    compute,
    num_rows,
)
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.recipe import Recipe
from tinygptv_core.settings import Filter

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FILTER = Step(name="filter", kind="table", version=2)
OVERVIEW_FILE = "filter.json"

BATCH_ROWS = 50_000
SAMPLES = 3
TOP_HOSTS = 100
MAX_HOSTS = 1_000_000


class Faults:
    """The first fault of each of some rows."""

    def __init__(self, count: int) -> None:
        import numpy as np

        self.is_at_fault = np.zeros(count, dtype=bool)
        self.found: dict[int, tuple[str, str]] = {}

    def add(self, is_fault: "np.ndarray", detail: Callable[[int], str], reason: str) -> None:
        """`reason` is what is wrong where `is_fault`, unless something is already; `detail` says it of a place."""
        import numpy as np

        for place in np.flatnonzero(is_fault & ~self.is_at_fault).tolist():
            self.found[place] = (reason, detail(place))
        self.is_at_fault |= is_fault


class Overview:
    """What became of the rows, for people: by reason, by host, and a few of each."""

    def __init__(self) -> None:
        self.samples: dict[str, list[dict[str, str | None]]] = {}
        self.hosts: Counter[str] = Counter()
        self.dropped: Counter[tuple[str, str]] = Counter()

    def count(self, batch: "pa.RecordBatch", known: Facts, faults: Faults) -> None:
        """Take in some rows."""
        import numpy as np

        rows = np.bincount(known.host, minlength=len(known.hosts)).tolist()
        self.hosts.update(dict(zip(known.hosts, rows, strict=True)))
        self.dropped.update((known.host_at(place), reason) for place, (reason, _) in faults.found.items())
        kept = [(place, ("kept", "")) for place in np.flatnonzero(~faults.is_at_fault)[:SAMPLES].tolist()]
        for place, (reason, detail) in (*kept, *sorted(faults.found.items())):
            if len(samples := self.samples.setdefault(reason, [])) < SAMPLES:
                said = {name: batch.column(name)[place].as_py() for name in ("key", "url", "file", "turns")}
                samples.append({**said, "detail": detail})
        if len(self.hosts) > MAX_HOSTS:  # so that memory is bounded; what is let go of is too small to be shown
            self.hosts = Counter(dict(self.hosts.most_common(MAX_HOSTS // 2)))
            self.dropped = Counter({item: count for item, count in self.dropped.items() if item[0] in self.hosts})

    def write(self, path: Path, tally: Tally) -> None:
        """All of it as JSON: the hosts that most rows have, the first rows of each reason."""
        self.hosts.pop("", None)
        top = sorted(self.hosts.items(), key=lambda item: (-item[1], item[0]))[:TOP_HOSTS]
        by_host: dict[str, dict[str, int]] = {host: {"rows": count, "kept": count} for host, count in top}
        for (host, reason), count in sorted(self.dropped.items()):
            if host in by_host:
                by_host[host]["kept"] -= count
                by_host[host][reason] = count
        reasons = {"kept": tally.kept, "dropped": dict(sorted(tally.dropped.items()))}
        overview = {**reasons, "hosts": by_host, "samples": dict(sorted(self.samples.items()))}
        path.write_text(json.dumps(overview, indent=1) + "\n")


def filter_rows(settings: Filter, recipe: Recipe, table: Path, folders: StepFolders, removals: Removals) -> None:
    """The rows of `table` that pass, in order, and the others with the reason. `filter.json` in the notes shows both.

    The rules on URLs hold for data sets that are fetched from URLs. Of equal URLs the first row that
    passes everything else stays, and of equal texts the first that passes that, too.

    Raises:
        ConfigError: nothing is left, or `languages` names one that is not known.
    """
    clear(folders.out)
    source, tally, overview = table / ROWS_FILE, Tally(), Overview()
    repeats = _repeats(settings, recipe, source, folders.scratch)
    with (
        TableWriter(folders.out / ROWS_FILE, TableRow, _size_columns(source)) as kept,
        TableWriter(folders.out / DROPPED_FILE, Drop) as dropped,
    ):
        for batch in _batches(source):
            known = facts_of(settings, batch)
            faults = judged(settings, removals, known)
            for reason, repeat in repeats.items():
                faults.add(*repeat.later(batch, faults.is_at_fault), reason)
            kept.write_table(_rows(batch, faults))
            dropped.write_table(_drops(batch, faults))
            tally.kept += len(batch) - len(faults.found)
            tally.dropped.update(reason for reason, _ in faults.found.values())
            overview.count(batch, known, faults)
    tally.write(folders.out, num_rows(source))
    overview.write(folders.notes / OVERVIEW_FILE, tally)


def _batches(source: Path, columns: Sequence[str] | None = None) -> Iterator["pa.RecordBatch"]:
    """The rows, some at a time; a thread of its own reads the next while these are looked at."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file, ThreadPoolExecutor(1) as thread:
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)
        waiting = thread.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(next, batches, None)
            yield batch


def _size_columns(source: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [name for name in SIZE if name in pq.read_schema(source).names]


def _repeats(settings: Filter, recipe: Recipe, source: Path, scratch: Path) -> dict[str, Repeats]:
    """What tells rows that repeat another, by the reason of the drop."""
    wanted = {
        "repeated_url": "url" if settings.unique_urls and recipe.how == "url" else None,
        "repeated_caption": "turns" if settings.unique_captions else None,
    }
    return {
        reason: Repeats(column, (batch.column(column) for batch in _batches(source, [column])), scratch / reason)
        for reason, column in wanted.items()
        if column
    }


def _rows(batch: "pa.RecordBatch", faults: Faults) -> "pa.Table":
    import pyarrow as pa

    rows = pa.Table.from_batches([batch])
    return rows.filter(pa.array(~faults.is_at_fault)) if faults.found else rows


def _drops(batch: "pa.RecordBatch", faults: Faults) -> "pa.Table":
    import pyarrow as pa

    found = sorted(faults.found.items())
    places = pa.array([place for place, _ in found], pa.int32())
    reasons, details = ([fault[item] for _, fault in found] for item in (0, 1))
    keys, urls = (batch.column(name).take(places) for name in ("key", "url"))
    return pa.table(
        [keys, urls, pa.array(reasons, pa.string()), pa.array(details, pa.string())], [f.name for f in fields(Drop)]
    )


def judged(settings: Filter, removals: Removals, known: Facts) -> Faults:
    """What is wrong with each row, by every rule but those on repeated rows, in their order."""
    import numpy as np

    faults = Faults(len(known.host))
    for place, fault in known.bad_urls.items():
        faults.found[place], faults.is_at_fault[place] = fault, True
    _judge_addresses(faults, settings, removals, known)
    few, many = settings.min_words, settings.max_words
    faults.add(known.words < few, lambda at: f"{known.words[at]}, at least {few}", "too_few_words")
    faults.add(known.words > many, lambda at: f"{known.words[at]}, at most {many}", "too_many_words")
    short, long = settings.min_characters, settings.max_characters
    faults.add(known.characters < short, lambda at: f"{known.characters[at]}, at least {short}", "too_few_characters")
    if long is not None:
        faults.add(known.characters > long, lambda at: f"{known.characters[at]}, at most {long}", "too_many_characters")
    if known.sizes is not None:
        _judge_sizes(faults, settings, known.sizes)
    if settings.languages:
        spoken = _languages(settings.languages, known.turns, np.flatnonzero(~faults.is_at_fault).tolist())
        is_other = np.zeros(len(known.host), dtype=bool)
        is_other[[place for place, language in spoken.items() if language not in settings.languages]] = True
        faults.add(is_other, lambda at: f"{spoken[at]}; wanted: {', '.join(settings.languages)}", "other_language")
    return faults


def _judge_addresses(faults: Faults, settings: Filter, removals: Removals, known: Facts) -> None:
    import numpy as np

    pc = compute()

    def is_listed(hosts: Collection[str]) -> "np.ndarray":
        return np.array([is_below(host, hosts) for host in known.hosts])[known.host]

    if settings.hosts:
        faults.add(~is_listed(_canonical(settings.hosts)) & (known.host > 0), known.host_at, "not_allowed_host")
    if settings.not_hosts:
        faults.add(is_listed(_canonical(settings.not_hosts)), known.host_at, "refused_host")
    if removals.hosts:
        faults.add(is_listed(removals.hosts), known.host_at, "removed_host")
    if removals.urls:
        is_removed = np.array(pc.is_in(known.urls, value_set=_strings(removals.urls)))
        faults.add(is_removed, lambda at: "the removal list names it", "removed_url")


def _canonical(hosts: Iterable[str]) -> frozenset[str]:
    return frozenset(map(canonical_host, hosts))


def is_below(host: str, hosts: Collection[str]) -> bool:
    """Whether `host`, however it is spelled, is one of `hosts` (as `canonical_host` has them), or below one of them."""
    parts = canonical_host(host).split(".")
    return any(".".join(parts[start:]) in hosts for start in range(len(parts)))


def _judge_sizes(faults: Faults, settings: Filter, sizes: "np.ndarray") -> None:
    """Where a size is not known (0) nothing is said of it: the picture itself is looked at when it is there."""
    import numpy as np

    low, high = sizes.min(axis=0), sizes.max(axis=0)

    def named(place: int) -> str:
        return f"{sizes[0, place]} x {sizes[1, place]} pixels"

    faults.add((low > 0) & (low < settings.min_side), named, "too_small")
    if settings.max_aspect is not None:
        faults.add((low > 0) & (high > settings.max_aspect * np.maximum(low, 1)), named, "too_elongated")


def _languages(wanted: Sequence[str], turns: "pa.StringArray", places: Sequence[int]) -> dict[int, str]:
    """The most likely language of what is said in the rows at `places`.

    Raises:
        ConfigError: `wanted` names one that py3langid does not know.
    """
    identifier = _identifier()
    if strange := [language for language in wanted if language not in identifier.labels]:
        raise ConfigError(unknown("language ", strange[0], sorted(identifier.labels)))
    return {place: identifier.classify(" ".join(texts_of(turns[place].as_py())))[0] for place in places}


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _strings(texts: Collection[str]) -> "pa.StringArray":
    import pyarrow as pa

    return pa.array(sorted(texts), pa.string())
