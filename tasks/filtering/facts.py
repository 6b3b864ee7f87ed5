"""What rules on rows ask of them: their hosts, words, characters and sizes.

Of many rows at a time: where an address and what is said are plain ASCII it is found in columns; of the others row by
row, by what the columns' way is tested against.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tasks.reading.bytewise import bytes_of, has_byte, has_spare_space, texts_between
from tasks.tables import SIZE, compute
from tinygptv_core.settings import Filter

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_BEFORE, _AFTER = '[["assistant", "', '"]]'
_OTHER = 0
_IN_HOSTS = bytes(letter if chr(letter) in f"{ascii_lowercase}{digits}._-" else _OTHER for letter in range(256))
_IN_WORDS = bytes(letter if " " <= chr(letter) <= "~" and chr(letter) not in '"\\' else _OTHER for letter in range(256))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules ask of some rows, a place for each.

    Attributes:
        urls: as in the table; None where a row has none.
        hosts: their distinct hosts, in lower case; the first is empty, for rows that have none.
        host: which of them is each row's.
        bad_urls: place -> reason and detail, of the URLs that name no host or may not be fetched.
        words, characters: of what the model is to say.
        turns: as in the table.
        sizes: width and height in pixels; None where the table has no such columns.
    """

    urls: "pa.StringArray"
    hosts: Sequence[str]
    host: "np.ndarray"
    bad_urls: Mapping[int, tuple[str, str]]
    words: "np.ndarray"
    characters: "np.ndarray"
    turns: "pa.StringArray"
    sizes: "np.ndarray | None"

    def host_at(self, place: int) -> str:
        """The host of one of the rows."""
        return self.hosts[int(self.host[place])]


def facts_of(settings: Filter, batch: "pa.RecordBatch") -> Facts:
    """What the rules ask of the rows of `batch`."""
    import numpy as np

    hosts, host, bad_urls = _addresses(settings, batch.column("url"))
    words, characters = _said(batch.column("turns"))
    is_sized = all(name in batch.schema.names for name in SIZE)
    return Facts(
        urls=batch.column("url"),
        hosts=hosts,
        host=host,
        bad_urls=bad_urls,
        words=words,
        characters=characters,
        turns=batch.column("turns"),
        sizes=np.stack([batch.column(name).fill_null(0).to_numpy() for name in SIZE]) if is_sized else None,
    )


def _addresses(settings: Filter, urls: "pa.StringArray") -> tuple[list[str], "np.ndarray", dict[int, tuple[str, str]]]:
    """The distinct hosts, which of them is each URL's, and what is wrong with the others."""
    import numpy as np
    import pyarrow as pa

    found = compute().ascii_lower(_before_slash(urls, settings.schemes)).dictionary_encode()
    offsets, text = bytes_of(found.dictionary)
    is_plain = (np.diff(offsets) > 0) & ~has_byte(offsets, text.translate(_IN_HOSTS), _OTHER)
    names = ["", *found.dictionary.filter(pa.array(is_plain)).to_pylist()]
    places = dict(zip(names, range(len(names)), strict=True))
    host = (np.cumsum(is_plain) * is_plain)[found.indices.to_numpy()]
    bad_urls: dict[int, tuple[str, str]] = {}
    for place in np.flatnonzero(host == 0).tolist():
        name, fault = address_of(settings, urls[place].as_py())
        host[place] = places.setdefault(name, len(places))
        if fault:
            bad_urls[place] = fault
    return list(places), host, bad_urls


def _before_slash(urls: "pa.StringArray", schemes: Sequence[str]) -> "pa.StringArray":
    """What stands in each URL after its scheme and before the next slash; nothing where it has none of `schemes`."""
    import numpy as np

    offsets, text = bytes_of(urls)
    begins, ends = offsets[:-1].copy(), offsets[1:]
    for scheme in set(schemes):
        start = f"{scheme}://"
        begins[np.array(compute().starts_with(urls, start).fill_null(False))] += len(start)
    slashes = np.append(np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("/")), len(text))
    stops = np.minimum(slashes[np.searchsorted(slashes, begins)], ends)
    return texts_between(text, begins, np.where(begins > offsets[:-1], stops, begins))


def address_of(settings: Filter, url: str | None) -> tuple[str, tuple[str, str] | None]:
    """The host of `url`, and what is wrong with it, as a reason and its detail. A row without a URL has neither."""
    if url is None:
        return "", None
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
    except ValueError as error:
        return "", ("invalid_url", str(error))
    if scheme not in settings.schemes:
        return host, ("not_allowed_scheme", f"{scheme or 'no scheme'}; allowed: {', '.join(settings.schemes)}")
    return host, None if host else ("invalid_url", "it names no host")


def _said(turns: "pa.StringArray") -> tuple["np.ndarray", "np.ndarray"]:
    """How many words and characters the model is to say in each row."""
    import numpy as np
    import pyarrow as pa

    pc = compute()
    is_plain = np.array(pc.and_(pc.starts_with(turns, _BEFORE), pc.ends_with(turns, _AFTER)))
    words, characters = np.zeros((2, len(turns)), dtype=np.int64)
    if is_plain.any():
        offsets, text = bytes_of(pc.binary_slice(turns.cast(pa.binary()), len(_BEFORE), -len(_AFTER)))
        is_plain &= ~has_byte(offsets, text.translate(_IN_WORDS), _OTHER) & ~has_spare_space(offsets, text)
        spaces = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord(" "))
        characters = np.diff(offsets)
        words = np.diff(np.searchsorted(spaces, offsets)) + 1
    for place in np.flatnonzero(~is_plain | (characters == 0)).tolist():
        words[place], characters[place] = said_in(turns[place].as_py())
    return words, characters


def said_in(turns: str) -> tuple[int, int]:
    """The number of words and of characters that the model is to say, all turns together."""
    texts = texts_of(turns)
    return sum(len(text.split()) for text in texts), sum(map(len, texts))


def texts_of(turns: str) -> list[str]:
    """What the model is to say, turn by turn."""
    return [text for role, text, *_ in json.loads(turns) if role == "assistant"]
