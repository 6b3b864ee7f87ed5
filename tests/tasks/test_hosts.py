"""Hosts of URLs: one answer wherever they are asked for, one by one or in columns."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fetching.guard import FetchError, _split
from tasks.filtering.facts import address_of
from tasks.hosts import canonical_host, host_of, hosts_of
from tasks.reporting.card import _by_host
from tasks.segments import Hosts
from tasks.storing.traces import _of_hosts
from tasks.tables import LedgerRow
from tests.tasks.json_values import FUZZ
from tinygptv_core.settings import Filter

HOSTS = {
    "http://a.example/1.jpg": "a.example",
    "http://a.example": "a.example",
    "HTTPS://A.Example./1.jpg": "a.example.",
    "http://a.example:8080?q": "a.example",
    "http://a.example:/1.jpg": "a.example",
    "http://me@a.example#f": "a.example",
    "http://me:pass@word@A.example:80/1.jpg": "a.example",
    "http://evil.example\\@a.example/": "a.example",
    "http://[2001:DB8::1]:8080/1.jpg": "2001:db8::1",
    "http://me@[::1]/1.jpg": "::1",
    "http://B\u00dcCHER.example/1.jpg": "b\u00fccher.example",
    "http://xn--bcher-kva.example/1.jpg": "xn--bcher-kva.example",
    "//a.example/1.jpg": "a.example",
    " http://a.example/1.jpg": "a.example",
    "http://a.exa\nmple/1.jpg": "a.example",
    "http:///1.jpg": "",
    "http://:80/1.jpg": "",
    "http://me@/1.jpg": "",
    "http://[::1/1.jpg": "",
    "http://a\u2100.example/": "",
    "a.example/1.jpg": "",
    "data:,a": "",
    "": "",
    None: "",
}


RULES = Filter(schemes=("http", "https"), min_words=0, max_words=9, unique_urls=False)


@pytest.mark.parametrize("url", HOSTS)
def test_a_host_is_the_same_for_all_who_ask(url):
    host, urls = HOSTS[url], pa.array([url, "http://other.example/"], pa.string())
    assert host_of(url) == host
    assert hosts_of(urls).to_pylist() == [host, "other.example"]
    assert address_of(RULES, url)[0] == host
    counted = Hosts()
    counted.count(LedgerRow(key="0", url=url, fate="ok", detail="", sha256=None, width=None, height=None))
    assert list(counted.rows) == [host]
    carded = _by_host(pa.table({"url": pa.chunked_array([urls]), "fate": ["ok", "ok"]}))
    assert set(carded["host"].to_pylist()) == {host, "other.example"} - {""}
    removed = frozenset([canonical_host(host) or "none.example"])
    assert _of_hosts(pa.table({"url": urls}), removed) == ([0] if host else [])
    try:
        assert _split(url or "").hostname == host
    except FetchError as error:
        assert host == "" or error.reason in ("invalid_url", "not_allowed_scheme")


PARTS = ["http://", "a.example", "B", "@", ":", "/", "?", "[", "]", "::1", "\u00dc", "\u0130", "\n", " ", "%", "#"]


def test_a_card_counts_hosts_of_more_urls_than_one_array_can_hold():
    """3 GB of URLs by their offsets: one chunk many times."""
    chunk = pa.array([f"http://{number}.example/{'x' * 1_000_000}" for number in range(50)])
    fates = pa.array(["ok"] * 50)
    rows = pa.table({"url": pa.chunked_array([chunk] * 60), "fate": pa.chunked_array([fates] * 60)})
    found = _by_host(rows)
    assert len(found) == 50 and set(found["n"].to_pylist()) == {60}


@FUZZ
@given(st.lists(st.none() | st.lists(st.sampled_from(PARTS)).map("".join) | st.text(max_size=12), max_size=8))
def test_hosts_in_columns_are_those_of_each_url(urls):
    assert hosts_of(pa.array(urls, pa.string())).to_pylist() == [host_of(url) for url in urls]
