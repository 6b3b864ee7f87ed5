"""Rows that need not be fetched go: a wrong scheme, too few or too many words, a URL that came before."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tasks.build import Site, Step
from tasks.tables import (
    DROPPED_FILE,
    ROWS_FILE,
    Drop,
    FirstOf,
    TableRow,
    TableWriter,
    Tally,
    clear,
    num_rows,
    read_table,
)
from tinygptv_core.presets import Filter
from tinygptv_core.recipe import Recipe

FILTER = Step(name="filter", kind="table", version=1)


def filter_rows(settings: Filter, recipe: Recipe, table: Path, site: Site) -> None:
    """The rows of `table` that pass, in order, and the others with the reason.

    The rules on URLs hold for data sets that are fetched from URLs. Of equal URLs the first row that
    passes everything else stays.

    Raises:
        ConfigError: nothing is left.
    """
    clear(site.out)
    source, tally = table / ROWS_FILE, Tally()
    by_url = settings.unique_urls and recipe.how == "url"
    first = FirstOf(_urls(source) if by_url else ())
    with (
        TableWriter(site.out / ROWS_FILE, TableRow) as kept,
        TableWriter(site.out / DROPPED_FILE, Drop) as dropped,
    ):
        for row in read_table(source, TableRow):
            fault = (_bad_url(settings, row.url) if row.url else None) or _bad_words(settings, row)
            if fault is None and by_url and row.url and (holder := first.holder(row.url, row.key)):
                fault = ("repeated_url", f"as row {holder}")
            if fault is None:
                kept.write(row)
                tally.kept += 1
            else:
                dropped.write(Drop(key=row.key, url=row.url, reason=fault[0], detail=fault[1]))
                tally.dropped[fault[0]] += 1
    tally.write(site.out, num_rows(source))


def _urls(source: Path) -> Iterator[str]:
    return (row.url for row in read_table(source, TableRow) if row.url)


def _bad_url(settings: Filter, url: str) -> tuple[str, str] | None:
    """What is wrong with `url`, as a reason and its detail."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname
    except ValueError as error:
        return "invalid_url", str(error)
    if scheme not in settings.schemes:
        return "not_allowed_scheme", f"{scheme or 'no scheme'}; allowed: {', '.join(settings.schemes)}"
    return None if host else ("invalid_url", "it names no host")


def _bad_words(settings: Filter, row: TableRow) -> tuple[str, str] | None:
    """The same for what the model is to say in this row, all its turns together."""
    words = sum(len(text.split()) for role, text, *_ in json.loads(row.turns) if role == "assistant")
    if words < settings.min_words:
        return "too_few_words", f"{words}, at least {settings.min_words}"
    if words > settings.max_words:
        return "too_many_words", f"{words}, at most {settings.max_words}"
    return None
