"""The hosts of URLs: where they stand in them, and how one host is spelled in many ways.

`tasks/filtering/facts.py` has them faster yet, for URLs of some schemes alone, and says what is wrong with the others.
"""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tasks.tables import compute

if TYPE_CHECKING:
    import pyarrow as pa

_NETLOC = "^[A-Za-z][A-Za-z0-9+.-]*://(?P<netloc>[^/?#]*)"
"""Of a URL: its host, and perhaps a user and a port."""
_PLAIN = r"^[a-z0-9._-]+\z"
"""A netloc that is a host as it stands."""


def host_of(url: str | None) -> str:
    """The host that `url` names, in lower case, without user, port and brackets; empty where it names none."""
    try:
        return urlsplit(url or "").hostname or ""
    except ValueError:
        return ""


def hosts_of(urls: "pa.StringArray") -> "pa.DictionaryArray":
    """`host_of` each of the URLs (null: empty), each distinct host once among the values."""
    import numpy as np
    import pyarrow as pa

    pc = compute()
    netlocs = pc.struct_field(pc.extract_regex(urls, _NETLOC), "netloc").dictionary_encode()
    lower = pc.ascii_lower(netlocs.dictionary)
    is_plain = pc.match_substring_regex(lower, _PLAIN).to_pylist()
    places = dict[str, int]()

    def place(host: str) -> int:
        return places.setdefault(host, len(places))

    of_netloc = [
        place(host if plain else host_of(f"http://{netloc}"))
        for netloc, host, plain in zip(netlocs.dictionary.to_pylist(), lower.to_pylist(), is_plain, strict=True)
    ]
    of_row = np.array([*of_netloc, -1], dtype=np.int32)[netlocs.indices.fill_null(len(of_netloc)).to_numpy()]
    for row in np.flatnonzero(of_row < 0).tolist():  # written in no usual way
        of_row[row] = place(host_of(urls[row].as_py()))
    return pa.DictionaryArray.from_arrays(pa.array(of_row), pa.array(list(places), pa.string()))


def canonical_host(host: str) -> str:
    """One spelling of a host: as it is looked up (IDNA), in lower case, no dot at the end, IPv6 as Python writes it."""
    name = host if host.isascii() else _looked_up(host)
    name = name.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if ":" not in name:
        return name
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _looked_up(host: str) -> str:
    """What `socket` asks a resolver for; a host that has no such form cannot be connected to, and stays as it is."""
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host
