"""Paths as they are typed, and as they are told."""

from pathlib import Path

from tasks.typed_paths import typed_path


def test_dots_go_and_a_link_before_them_is_followed_as_the_system_does(tmp_path, monkeypatch):
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
    (tmp_path / "deep" / "list.csv").symlink_to(tmp_path / "other.json")
    monkeypatch.chdir(tmp_path / "deep")
    assert typed_path("../home") == tmp_path / "home"
    assert typed_path("down/..") == tmp_path / "deep"
    assert typed_path("../link/../home") == tmp_path / "deep" / "home"
    assert typed_path("down/../list.csv") == tmp_path / "deep" / "list.csv"  # what is named keeps its own name
    assert typed_path("../link/x") == tmp_path / "deep" / "down" / "x"
    assert typed_path(str(tmp_path / "link")) == tmp_path / "link"
    assert typed_path("~") == Path.home()
