"""Lists of what is to be left out, whoever asked for it: URLs, hosts, SHA-256 of pictures, perceptual hashes.

A removal list is text, one item a line, perhaps packed (gz, bz2, xz, zst). Empty lines and those that begin with # say
nothing. An item is told by its form:

    https://a.example/1.jpg     a URL: http or https, then ://
    sha256:9f86d0...            64 hexadecimal digits; they may stand alone
    phash:d1c4b2a0f0e81c3a      16 hexadecimal digits: 64 bits; they may stand alone
    a.example                   a host, in any script, and every host below it; or localhost, or an IPv6 address

`kind,value` says the kind before a comma, as a CSV has it: `url`, `host`, `sha256` or `phash`; if the first line that
says something has just these two words, it is the table's head. A URL with a space, or with a comma behind `url,`,
stands in quotes, so that no remark is taken for a part of it. URLs and hosts are applied in the filter, hashes in the
screen.
"""

import csv
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.hosts import canonical_host
from tasks.reading.lists import opened_text
from tinygptv_core.plain import ConfigError, unknown

_FORMS = {
    "url": re.compile(r"https?://\S.*", re.IGNORECASE),
    "sha256": re.compile(r"[0-9a-f]{64}", re.IGNORECASE),
    "phash": re.compile(r"[0-9a-f]{16}", re.IGNORECASE),
    "host": re.compile(r"localhost|[a-z0-9_-]+(\.[a-z0-9_-]+)+"),  # as `canonical_host` has it
}
_SPACE = re.compile(r"\s")
_HEAD = ["kind", "value"]


@dataclass(frozen=True, kw_only=True)
class Removals:
    """What a removal list names: URLs as they are written, hosts as `canonical_host` has them, hashes in hex."""

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
        found[kind].add(value)
    named = {kind: frozenset(values) for kind, values in found.items()}
    return Removals(urls=named["url"], hosts=named["host"], sha256=named["sha256"], phash=named["phash"])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that name something, each with its number."""
    with opened_text(path, newline=None) as file:
        lines = ((number, line.strip()) for number, line in enumerate(file, start=1))
        telling = ((number, text) for number, text in lines if text and not text.startswith("#"))
        for place, (number, text) in enumerate(telling):
            if place or text.lower().split(",") != _HEAD:
                yield number, text


def _item(line: str, where: str) -> tuple[str, str]:
    """The kind and the value that a line names, the value in its one spelling."""
    try:
        kind, written = _parts(line)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if kind in _FORMS and (value := _value(kind, written)) is not None:
        return kind, value
    if kind and kind not in _FORMS:
        raise ConfigError(f"{where}: " + unknown("kind of removal ", kind, list(_FORMS)))
    what = kind or "URL, host, SHA-256 or perceptual hash (16 hexadecimal digits)"
    raise ConfigError(f"{where} is {written[:80]!r}, which is no {what}. One item a line, or kind,value")


def _parts(line: str) -> tuple[str, str]:
    """The kind of what a line names, by its own word or by its form (empty if it has none); and the rest of it."""
    before, colon, after = line.partition(":")
    if colon and before.lower() in ("sha256", "phash"):
        return before.lower(), after.strip()
    if _FORMS["url"].match(line) or "," not in line:
        kind = next((kind for kind in _FORMS if _value(kind, line) is not None), "")
        return ("" if kind == "url" and _SPACE.search(line) else kind), line
    cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
    is_quoted = line.partition(",")[2].lstrip().startswith('"')
    if cells[0] == "url" and not is_quoted and (len(cells) > 2 or _SPACE.search(cells[1])):
        raise ConfigError(f"{line[:80]!r} may be a URL and a remark: put the URL in quotes, as a CSV does")
    return cells[0], cells[1]


def _value(kind: str, written: str) -> str | None:
    """The one spelling of a value of this kind; None if it is none."""
    value = written if kind == "url" else canonical_host(written) if kind == "host" else written.lower()
    return value if _FORMS[kind].fullmatch(value) or (kind == "host" and _is_address(value)) else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
