"""Lists of what is to be left out, whoever asked for it: URLs, hosts, SHA-256 of pictures, perceptual hashes.

A removal list is text, one item a line, perhaps packed (gz, bz2, xz, zst). Empty lines and those that begin with # say
nothing. An item is told by its form:

    https://a.example/1.jpg     a URL: http or https, then ://
    sha256:9f86d0...            64 hexadecimal digits; they may stand alone
    phash:d1c4b2a0f0e81c3a      16 hexadecimal digits: 64 bits; they may stand alone
    a.example                   a host, and every host below it

`kind,value` says the kind before a comma, as a CSV has it: `url`, `host`, `sha256` or `phash`; a first line of just
these two words is taken for the table's head. URLs and hosts are applied in the filter, hashes in the screen.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.lists import opened
from tinygptv_core.plain import ConfigError, unknown

_FORMS = {
    "url": re.compile(r"https?://\S+", re.IGNORECASE),
    "sha256": re.compile(r"[0-9a-f]{64}", re.IGNORECASE),
    "phash": re.compile(r"[0-9a-f]{16}", re.IGNORECASE),
    "host": re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+\.?", re.IGNORECASE),
}
_HEAD = ["kind", "value"]


@dataclass(frozen=True, kw_only=True)
class Removals:
    """What a removal list names: URLs as they are written, hosts in lower case, hashes in lower-case hex."""

    urls: frozenset[str]
    hosts: frozenset[str]
    sha256: frozenset[str]
    phash: frozenset[str]


NO_REMOVALS = Removals(urls=frozenset(), hosts=frozenset(), sha256=frozenset(), phash=frozenset())


def read_removals(path: Path) -> Removals:
    """The removal list at `path`.

    Raises:
        ConfigError: there is no such file, it cannot be read, or a line is nothing of the kind; says which line.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; a removal list is a text file, one item a line")
    found: dict[str, set[str]] = {kind: set() for kind in _FORMS}
    for number, line in _lines(path):
        kind, value = _item(line, f"{path}, line {number}")
        found[kind].add(value if kind == "url" else value.lower().rstrip("."))
    named = {kind: frozenset(values) for kind, values in found.items()}
    return Removals(urls=named["url"], hosts=named["host"], sha256=named["sha256"], phash=named["phash"])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with opened(path, newline=None) as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if text and not text.startswith("#") and not (number == 1 and text.lower().split(",") == _HEAD):
                yield number, text


def _item(line: str, where: str) -> tuple[str, str]:
    """The kind and the value that a line names."""
    before, colon, after = line.partition(":")
    if colon and before.lower() in ("sha256", "phash"):
        kind, value = before.lower(), after.strip()
    elif not _FORMS["url"].match(line) and "," in line:
        kind, value = (cell.strip() for cell in next(csv.reader([line]))[:2])
    else:
        kind, value = next((kind for kind, form in _FORMS.items() if form.fullmatch(line)), ""), line
    if kind in _FORMS and _FORMS[kind].fullmatch(value):
        return kind, value
    if kind and kind not in _FORMS:
        raise ConfigError(f"{where}: " + unknown("kind of removal ", kind, list(_FORMS)))
    what = kind or "URL, host, SHA-256 or perceptual hash (16 hexadecimal digits)"
    raise ConfigError(f"{where} is {value[:80]!r}, which is no {what}. One item a line, or kind,value")
