"""What may be fetched, against servers on loopback; one at a second address counts who comes there."""

import socket
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote

import pytest

from tasks.fetching.guard import FetchError, GuardedOpener, Rules, is_public
from tasks.fetching.outcomes import RETRIED
from tasks.fetching.serve import serving
from tests.tasks.web import Handler, Server

TIMEOUT_SECONDS = 0.5
TOTAL_SECONDS = 1
MAX_BYTES = 10_000


class MisbehavingHandler(Handler):
    """`/N` is N bytes; other paths are the ways in which a server misbehaves. Notes who asked for what."""

    seen: list  # given by a subclass of its own to each server
    away = ""

    def respond(self, name):
        self.seen.append((self.headers["Host"], self.path))
        name = name.partition("?")[0]
        if name.isdigit():
            return self.answer(200, b"x" * int(name))
        return getattr(self, name)()

    def missing(self):
        self.answer(404, b"no")

    def moved(self):
        self.answer(301, b"", Location="/7")

    def spelled(self):
        self.answer(301, b"", Location="/7?caf\u00e9".encode().decode("latin-1"))

    def leave(self):
        self.answer(302, b"", Location=self.away)

    def local(self):
        self.answer(302, b"", Location="file:///etc/hostname")

    def circle(self):
        self.answer(307, b"", Location="/circle")

    def silent(self):
        time.sleep(3 * TIMEOUT_SECONDS)

    def drip(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b"x")
            time.sleep(TIMEOUT_SECONDS / 5)

    def endless(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x" * 1000)

    def short(self):
        self.answer(200, b"x", Content_Length=5)

    def reserved(self):
        self.answer(200, b"x", TDM_Reservation=1)

    def free(self):
        self.answer(200, b"x", TDM_Reservation=0)

    def robots(self):
        self.send_response(200)
        for line in unquote(self.path.partition("?")[2]).split("|"):
            self.send_header("x-robots-tag", line)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"x")

    def nothing(self):
        self.close_connection = True


@contextmanager
def server(address, kind=MisbehavingHandler):
    handler = type("Own", (kind,), {"asked": Counter(), "seen": []})
    with Server((address, 0), handler) as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://{address}:{one.server_port}", handler
        finally:
            one.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def web():
    with server("127.0.0.1") as (url, handler), server("127.0.0.2") as (away, visitors):
        handler.away = f"{away}/5"
        yield url, handler, away, visitors


def opening(**rules):
    settings = {
        "allow_hosts": ("127.0.0.1",),
        "hosts": {},
        "total_seconds": TOTAL_SECONDS,
        "max_bytes": MAX_BYTES,
        "per_host": 4,
    }
    return GuardedOpener(Rules(**settings | rules))


def fetched(url, **rules):
    with opening(**rules).open(urllib.request.Request(url), None, TIMEOUT_SECONDS) as response:
        return response.read()


def reason(opener, url):
    with pytest.raises(FetchError) as error, opener.open(url, None, TIMEOUT_SECONDS) as response:
        response.read()
    return str(error.value)


def refusal(url, **rules):
    return reason(opening(**rules), url)


def test_a_named_host_is_fetched_from_and_a_redirect_within_it_followed(web):
    assert fetched(f"{web[0]}/12") == b"x" * 12
    assert fetched(f"{web[0]}/moved") == b"x" * 7
    assert fetched(f"{web[0]}/spelled") == b"x" * 7
    assert web[1].seen[-1][1] == "/7?caf%C3%A9"  # the bytes that the server named


def test_a_host_that_is_not_named_is_not_connected_to(web):
    seen = len(web[1].seen)
    assert refusal(f"{web[0]}/1", allow_hosts=()).startswith("refused_address: 127.0.0.1")
    assert refusal(web[0].replace("127.0.0.1", "localhost"), allow_hosts=()).startswith("refused_address")
    assert refusal(web[0].replace("127.0.0.1", "2130706433")).startswith("refused_address")  # the same in one number
    assert len(web[1].seen) == seen


def test_a_redirect_to_a_host_that_is_not_named_is_not_followed(web):
    url, _, away, visitors = web
    assert refusal(f"{url}/leave").startswith("refused_address: 127.0.0.2")
    assert refusal(f"{away}/1").startswith("refused_address: 127.0.0.2")
    assert visitors.seen == []
    with_both = ("127.0.0.1", "127.0.0.2")
    assert fetched(f"{url}/leave", allow_hosts=with_both) == b"x" * 5
    assert [path for _, path in visitors.seen] == ["/5"]
    visitors.seen.clear()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing", "http_404: Not Found"),
        ("local", "not_allowed_scheme: file"),
        ("circle", "too_many_redirects: over 5"),
        ("silent", "timeout: no answer for 0.5 s"),
        ("drip", "timeout: not whole after 1 s"),
        ("endless", "too_large: over 10000 bytes"),
        ("10001", "too_large: over 10000 bytes"),
        ("short", "incomplete_body: IncompleteRead"),
        ("nothing", "connection_failed: RemoteDisconnected"),
    ],
)
def test_a_server_that_misbehaves_gives_a_reason_in_time(web, path, said):
    assert refusal(f"{web[0]}/{path}") == said


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:text/plain,a"])
def test_other_schemes_are_not_opened(url):
    assert refusal(url).startswith("not_allowed_scheme")


def test_what_is_no_url_is_said_to_be_none():
    assert refusal("http:///a").startswith("invalid_url")
    assert refusal("http://127.0.0.1:port/a").startswith("invalid_url")


def test_where_nobody_listens_there_is_no_connection():
    assert refusal("http://127.0.0.1:1/a") == "connection_failed: Connection refused"


def test_proxy_variables_are_not_read(web, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, web[2])
    assert fetched(f"{web[0]}/3") == b"xxx"
    assert web[3].seen == []


def test_letters_that_a_url_may_not_hold_are_escaped(web):
    assert fetched(f"{web[0]}/4?\u00e9 a") == b"xxxx"
    assert web[1].seen[-1][1] == "/4?%C3%A9%20a"


def test_a_stable_name_leads_to_our_own_server_and_no_other_name_does(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"picture")
    with serving(tmp_path) as address:
        hosts = {"scenes.invalid": address}
        assert fetched("http://scenes.invalid/a.jpg", hosts=hosts, allow_hosts=()) == b"picture"
        assert refusal("http://scenes.invalid/", hosts=hosts, allow_hosts=()) == "http_404: Not Found"
        assert refusal("http://scenes.invalid/../etc/hostname", hosts=hosts).startswith("http_404")
        assert refusal(f"http://{address}/a.jpg", hosts=hosts, allow_hosts=()).startswith("refused_address")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.1.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%lo", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_is_what_the_whole_internet_reaches(address, public):
    assert is_public(address) is public


def test_a_host_is_asked_for_no_more_than_its_share_at_a_time_and_others_do_not_wait():
    at_once, most, lock = Counter(), Counter(), threading.Lock()

    class Busy(MisbehavingHandler):
        def respond(self, name):
            address = self.server.server_address[0]
            with lock:
                at_once[address] += 1
                most[address] = max(most[address], at_once[address])
            time.sleep(0.2)
            with lock:
                at_once[address] -= 1
            self.answer(200, b"x")

    with server("127.0.0.1", Busy) as (one, _), server("127.0.0.2", Busy) as (other, _):
        opener = opening(per_host=3, allow_hosts=("127.0.0.1", "127.0.0.2"), total_seconds=2)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda url: opener.open(url).close(), [f"{one}/1", f"{other}/1"] * 8))
    assert most == {"127.0.0.1": 3, "127.0.0.2": 3}
    assert not opener.turns.busy


def test_a_picture_that_fails_gives_its_hosts_turn_back(web):
    opener = opening(per_host=1)
    for name in ("missing", "circle", "short", "nothing", "leave", "1", "moved"):
        with suppress(FetchError), opener.open(f"{web[0]}/{name}", None, TIMEOUT_SECONDS) as response:
            response.read()
    assert not opener.turns.busy


def test_waiting_for_a_turn_is_not_part_of_a_pictures_time(web):
    opener = opening(per_host=1)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: reason(opener, f"{web[0]}/drip"), range(3)))
    assert told == ["timeout: not whole after 1 s"] * 3  # one after another, three seconds in all


def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to(web, monkeypatch):
    """The second time that it were asked, this name would lead elsewhere."""
    answers, real = iter(["127.0.0.1", "127.0.0.2"]), socket.getaddrinfo

    def resolve(host, port, **kinds):
        return real(next(answers) if host == "two-faced.example" else host, port, **kinds)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = web[0].replace("127.0.0.1", "two-faced.example")
    assert fetched(f"{url}/6", allow_hosts=("two-faced.example",)) == b"x" * 6
    assert next(answers) == "127.0.0.2" and web[3].seen == []


def test_of_a_names_addresses_those_that_are_not_public_are_left_out(monkeypatch):
    info = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    both = [(*info, (address, 80)) for address in ("127.0.0.1", "93.184.216.34")]
    connected = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **kinds: both)
    monkeypatch.setattr("tasks.fetching.guard._connected", lambda one, pace: connected.append(one[4][0]) or refuse())
    assert refusal("http://both.example/", allow_hosts=()) == "connection_failed: ConnectionRefusedError"
    assert connected == ["93.184.216.34"]


def refuse():
    raise ConnectionRefusedError


def test_a_resolver_that_gave_no_answer_may_give_one_later(monkeypatch):
    def fail(*_, **kinds):
        raise socket.gaierror(error, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = socket.EAI_AGAIN
    assert refusal("http://a.example/") == "resolver_failed: no answer" and RETRIED.fullmatch("resolver_failed")
    error = socket.EAI_NONAME
    assert refusal("http://a.example/") == "host_not_found: no answer" and not RETRIED.fullmatch("host_not_found")


def test_a_site_that_keeps_mining_to_itself_is_left_alone(web):
    assert refusal(f"{web[0]}/reserved") == "disallowed_by_site: TDM-Reservation: 1"
    assert fetched(f"{web[0]}/free") == b"x"


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ("NoAI, nofollow", "noai"),
        ("noai, max-snippet:-1", "noai"),
        ("max-image-preview:large, noai", "noai"),
        ("noindex, unavailable_after: 25 Jun 2030 15:00:00 PST", "noindex"),
        ("unavailable_after: Tuesday, 25-Jun-30 15:00:00 PST, noimageai", "noimageai"),
        ("TinyGPTV : noai", "noai"),
        ("*: noimageindex", "noimageindex"),
        ("googlebot: nofollow, tinygptv: max-snippet: 5, none", "none"),
        ("googlebot: noai|noindex", "noindex"),
        ("googlebot: noai, noindex, otherbot: none", None),
        ("tinygptv: nofollow, googlebot: noai", None),
        ("googlebot: max-snippet:-1, noai", None),
        ("index, max-video-preview:-1|all", None),
    ],
)
def test_a_robots_header_is_read_word_by_word_and_for_whom_it_is(web, lines, word):
    url = f"{web[0]}/robots?{quote(lines)}"
    if word is None:
        assert fetched(url) == b"x"
    else:
        assert refusal(url) == f"disallowed_by_site: X-Robots-Tag: {word}"
