"""Fetch over HTTP from public addresses only, within a limit of redirects, of time and of size.

URL lists come from strangers, so a URL may point into the machine's own network, or lead there by a
redirect or by its name's address. Here a name is resolved once, the addresses are judged, and the
connection goes to a judged address; TLS still verifies the name. Proxy variables are not read.
No host is asked for more than a few pictures at once, and a site's word that they are not for mining stands.
"""

import functools
import http.client
import io
import ipaddress
import socket
import ssl
import string
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tasks.fetching.reservations import reservation
from tasks.hosts import canonical_host
from tinygptv_core.settings import SCHEMES

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
READ_BYTES = 1 << 16
# What headers may take on top of the picture's own bytes.
HEADER_BYTES = 1 << 17
_Info = tuple[Any, Any, int, str, Any]  # what getaddrinfo says of one address
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: IPv4 addresses as a NAT64 gateway spells them


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What may be fetched.

    Attributes:
        allow_hosts: hosts, as URLs name them, that may be at an address which is not public.
        hosts: host -> "ADDRESS:PORT" that stands for it, for servers of our own behind a stable name.
        total_seconds: the most for one picture, all redirects together.
        max_bytes: the most of one picture.
        per_host: the most requests to one host that one process has open at a time.
    """

    allow_hosts: tuple[str, ...]
    hosts: Mapping[str, str]
    total_seconds: int
    max_bytes: int
    per_host: int


class FetchError(Exception):
    """A picture that could not be had; reads as `reason: detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(kw_only=True)
class _Pace:
    """What is left to one picture: until `deadline` (monotonic seconds), and `left_bytes`."""

    timeout_seconds: float
    total_seconds: float
    deadline: float
    max_bytes: int
    left_bytes: int

    def wait_seconds(self) -> float:
        """How long the next answer may take. Raises FetchError where no time is left."""
        left_seconds = self.deadline - monotonic()
        if left_seconds <= 0:
            raise FetchError("timeout", f"not whole after {self.total_seconds:g} s")
        return min(self.timeout_seconds, left_seconds)

    def late(self) -> FetchError:
        """The error of an answer that did not come in time."""
        self.wait_seconds()
        return FetchError("timeout", f"no answer for {self.timeout_seconds:g} s")

    def take(self, num_bytes: int) -> None:
        """Count what came."""
        self.left_bytes -= num_bytes
        if self.left_bytes < 0:
            raise self.too_large()

    def too_large(self) -> FetchError:
        """The error of a picture that is over the limit."""
        return FetchError("too_large", f"over {self.max_bytes} bytes")


class _PacedReader(io.RawIOBase):
    """What a socket receives, within the pace."""

    def __init__(self, connection: socket.socket, pace: _Pace) -> None:
        self.connection, self.pace = connection, pace
        self.raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.connection.settimeout(self.pace.wait_seconds())
        try:
            num_bytes = self.raw.readinto(buffer) or 0
        except TimeoutError:
            raise self.pace.late() from None
        self.pace.take(num_bytes)
        return num_bytes

    def close(self) -> None:
        self.raw.close()
        super().close()


class _PacedSocket:
    """The little of a socket that `http.client` uses, with reading paced."""

    def __init__(self, connection: socket.socket, pace: _Pace) -> None:
        self.connection, self.pace = connection, pace
        self.sendall, self.close = connection.sendall, connection.close

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", mode
        return io.BufferedReader(_PacedReader(self.connection, self.pace), READ_BYTES)


class _ResolverError(socket.gaierror):
    """The resolver gave no answer this time, which says nothing of the host."""


class _Turns:
    """At most `limit` at a time for each host; the others wait."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.busy: Counter[str] = Counter()
        self.changed = threading.Condition()

    @contextmanager
    def turn(self, host: str) -> Iterator[None]:
        """One request to `host`, once there are fewer than the limit."""
        with self.changed:
            self.changed.wait_for(lambda: self.busy[host] < self.limit)
            self.busy[host] += 1
        try:
            yield
        finally:
            with self.changed:
                self.busy[host] -= 1
                if not self.busy[host]:
                    del self.busy[host]
                self.changed.notify_all()


class _Response(http.client.HTTPResponse):
    """A response whose body either comes whole or raises a FetchError. Closing it ends its host's turn."""

    held = ExitStack()  # what ends with it; nothing, for one that breaks off before its headers are whole

    def close(self) -> None:
        super().close()
        self.held.close()

    def read(self, amt: int | None = None) -> bytes:
        with _reasons():
            return super().read(amt)


_REASONS = (
    (ssl.SSLError, "tls_failed"),
    (TimeoutError, "timeout"),
    (_ResolverError, "resolver_failed"),
    (socket.gaierror, "host_not_found"),
    (http.client.IncompleteRead, "incomplete_body"),
    ((http.client.InvalidURL, UnicodeError), "invalid_url"),
    (OSError, "connection_failed"),
    (http.client.HTTPException, "bad_response"),
)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what the standard library raises into a FetchError, in words that do not vary between two runs."""
    try:
        yield
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = next(reason for kinds, reason in _REASONS if isinstance(error, kinds))
        detail = error.strerror if isinstance(error, OSError) else None
        raise FetchError(reason, detail or type(error).__name__) from error


class GuardedOpener(urllib.request.OpenerDirector):
    """Opens URLs as `rules` allow. Install it with `install`; `urllib.request.urlopen` then goes through it."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        self.allowed = frozenset(map(canonical_host, rules.allow_hosts))
        self.turns = _Turns(rules.per_host)

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> http.client.HTTPResponse:
        """The answer to a GET for `fullurl` (a text or a `urllib.request.Request`).

        Raises:
            FetchError: it may not be fetched, or could not be.
        """
        request = fullurl if isinstance(fullurl, urllib.request.Request) else urllib.request.Request(fullurl)
        assert data is None and request.data is None, "pictures are fetched by GET"
        rules = self.rules
        pace = _Pace(
            timeout_seconds=min(timeout or rules.total_seconds, rules.total_seconds),
            total_seconds=rules.total_seconds,
            deadline=monotonic() + rules.total_seconds,
            max_bytes=rules.max_bytes,
            left_bytes=rules.max_bytes + HEADER_BYTES,
        )
        url = request.full_url
        for _ in range(MAX_REDIRECTS + 1):
            with _reasons():
                response = self._get(_split(url), dict(request.header_items()), pace)
            target = response.headers.get("Location")
            if response.status not in REDIRECTS or target is None:
                return _successful(response, pace)
            response.close()
            # Bytes beyond ASCII come as Latin-1, whatever they mean; quoted they are the bytes that were sent.
            url = urljoin(url, quote(target, safe=string.punctuation, encoding="latin-1"))
        raise FetchError("too_many_redirects", f"over {MAX_REDIRECTS}")

    def _get(self, url: SplitResult, headers: dict[str, str], pace: _Pace) -> _Response:
        host, port = url.hostname or "", url.port or SCHEMES[url.scheme]
        with ExitStack() as held:
            asked = monotonic()
            held.enter_context(self.turns.turn(canonical_host(host)))
            pace.deadline += monotonic() - asked  # a picture's time begins when it is its turn
            connected = self._connect(host, port, pace)
            held.callback(connected.close)
            connected.settimeout(pace.wait_seconds())
            if url.scheme == "https":
                connected = held.enter_context(_tls_context().wrap_socket(connected, server_hostname=host))
            connection = http.client.HTTPConnection(host, port)  # for both schemes: the socket is ours
            connection.default_port = SCHEMES[url.scheme]
            connection.sock = cast(Any, _PacedSocket(connected, pace))
            connection.response_class = _Response
            path = quote(url.path or "/", safe=string.punctuation)
            query = quote(url.query, safe=string.punctuation)
            connection.request("GET", f"{path}?{query}" if query else path, headers=headers | {"Connection": "close"})
            response = cast(_Response, connection.getresponse())
            response.held = held.pop_all()
            return response

    def _connect(self, host: str, port: int, pace: _Pace) -> socket.socket:
        """A connection to an address of `host` that was judged.

        Raises:
            FetchError: none of its addresses is public, and the host is not named as allowed.
            OSError: none of them answers.
        """
        if host in self.rules.hosts:
            address, _, own_port = self.rules.hosts[host].rpartition(":")
            return socket.create_connection((address, int(own_port)), timeout=pace.wait_seconds())
        found = _addresses(host, port)
        named = canonical_host(host) in self.allowed
        judged = [info for info in found if named or is_public(str(info[4][0]))]
        if not judged:
            raise FetchError("refused_address", f"{found[0][4][0]}, the address of {host}, is not public")
        *others, last = judged
        for info in others:
            with suppress(OSError):
                return _connected(info, pace)
        return _connected(last, pace)


def _addresses(host: str, port: int) -> list[_Info]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise _ResolverError(*error.args) from error
        raise


def _connected(info: _Info, pace: _Pace) -> socket.socket:
    family, kind, protocol, _, address = info
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(pace.wait_seconds())
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _split(url: str) -> SplitResult:
    """`url` in its parts.

    Raises:
        FetchError: it is none, or neither http nor https.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise FetchError("invalid_url", str(error)) from error
    if parts.scheme not in SCHEMES:
        raise FetchError("not_allowed_scheme", parts.scheme or "no scheme")
    if not host:
        raise FetchError("invalid_url", "it names no host")
    return parts


def _successful(response: http.client.HTTPResponse, pace: _Pace) -> http.client.HTTPResponse:
    """`response`, if it brings a body that is not too large by its own word and that its site does not reserve."""
    if not 200 <= response.status < 300:
        response.close()
        raise FetchError(f"http_{response.status}", response.reason or str(response.status))
    if (response.length or 0) > pace.max_bytes:
        response.close()
        raise pace.too_large()
    if said := reservation(response.headers):
        response.close()
        raise FetchError("disallowed_by_site", said)
    return response


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def is_named_private(host: str) -> bool:
    """Whether `host` itself says that its address is not public: it is such an address, or this machine's name."""
    name = canonical_host(host)
    try:
        return not is_public(name)
    except ValueError:
        return name == "localhost"


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where an IPv6 address holds an IPv4 one."""
    number = ipaddress.ip_address(address)
    if isinstance(number, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF) if number in _TRANSLATED else None
        inner = number.ipv4_mapped or number.sixtofour or (number.teredo or (None, None))[1] or translated
        if inner is not None:
            return is_public(str(inner))
        if number.is_site_local:
            return False
    return number.is_global and not (number.is_multicast or number.is_reserved or number.is_unspecified)


def install(rules: Rules) -> None:
    """Let every `urllib.request.urlopen` of this process go through a guarded opener."""
    urllib.request.install_opener(GuardedOpener(rules))
