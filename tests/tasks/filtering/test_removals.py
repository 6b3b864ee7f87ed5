"""What a removal list may hold, a line for each form."""

import gzip

import pytest

from tasks.filtering.removals import read_removals
from tinygptv_core.plain import ConfigError

SHA, PHASH = "9F" * 32, "d1c4b2a0f0e81c3a"


def test_each_line_is_told_by_its_form(tmp_path):
    lines = ["# asked for on 3 May", "", "https://a.example/1.jpg?x=1,2", "B.Example.", SHA, f"phash:{PHASH.upper()}"]
    (tmp_path / "removals.txt.gz").write_bytes(gzip.compress("\r\n".join(lines).encode()))
    found = read_removals(tmp_path / "removals.txt.gz")
    assert found.urls == {"https://a.example/1.jpg?x=1,2"}
    assert found.hosts == {"b.example"}
    assert found.sha256 == {SHA.lower()}
    assert found.phash == {PHASH}


def test_a_csv_says_the_kind(tmp_path):
    (tmp_path / "a.csv").write_text(
        f'# of May\n\nkind,value\nhost,a.example\nurl,"http://b/1,2"\nsha256,{SHA}\nphash,{PHASH}\n'
    )
    found = read_removals(tmp_path / "a.csv")
    assert (found.urls, found.hosts) == ({"http://b/1,2"}, {"a.example"})
    assert (found.sha256, found.phash) == ({SHA.lower()}, {PHASH})


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ("http://a/b,c.jpg", "urls", "http://a/b,c.jpg"),
        ('url,"http://a/b,c.jpg"', "urls", "http://a/b,c.jpg"),
        ('url, "http://a/\u00e4 b,c.jpg" ', "urls", "http://a/\u00e4 b,c.jpg"),
        ('url,"http://a/b",2024-05-01', "urls", "http://a/b"),
        ("B\u00dcCHER.example", "hosts", "xn--bcher-kva.example"),
        ("host,\uff41\u3002example.", "hosts", "a.example"),
        ("localhost", "hosts", "localhost"),
        ("[::1]", "hosts", "::1"),
        ("host,2001:DB8:0::1", "hosts", "2001:db8::1"),
    ],
)
def test_what_is_named_is_taken_whole_and_a_host_as_it_is_looked_up(tmp_path, line, kind, value):
    (tmp_path / "a.txt").write_text(f"{line}\n")
    assert getattr(read_removals(tmp_path / "a.txt"), kind) == {value}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("picture", "line 2 is 'picture', which is no URL, host, SHA-256 or perceptual hash"),
        ("sha256:12", "line 2 is '12', which is no sha256"),
        ("hots,a.example", "there is no kind of removal hots. Did you mean host?"),
        ("host,", "line 2 is '', which is no host"),
        ("\u00fc" * 70 + ".example", "which is no URL, host, SHA-256"),  # longer than a label may be
        ("http://a/1.jpg # asked by mail", "line 2 is 'http://a/1.jpg # asked by mail', which is no URL"),
        ("url,http://a/1.jpg,2024-05-01", "line 2: 'url,http://a/1.jpg,2024-05-01' may be a URL and a remark"),
        ("url,http://a/1.jpg asked", "may be a URL and a remark"),
        ("a.example:80", "line 2 is 'a.example:80', which is no URL, host, SHA-256"),
    ],
)
def test_what_is_nothing_of_the_kind_is_refused_with_its_line(tmp_path, line, said):
    (tmp_path / "a.txt").write_text(f"a.example\n{line}\n")
    with pytest.raises(ConfigError) as refusal:
        read_removals(tmp_path / "a.txt")
    assert said in str(refusal.value)


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        read_removals(tmp_path / "none.txt")
