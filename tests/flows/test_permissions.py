"""What this user may not read or write, and a file in the place of a home: exit status 2, what it is and what helps."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.cli import main
from tests.tasks.made_store import made_home

NOBODY = 65534


@contextmanager
def as_nobody():
    """Modes do not hold root back, so that it is another user meanwhile."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def there():
    """A folder that everybody may read and nobody else write; `closed` in it is for its owner."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "closed").mkdir()
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def refused(capsys, *argv):
    with as_nobody():
        assert main([*map(str, argv)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 2 and "Errno" not in told and "Traceback" not in told
    return told


@pytest.mark.parametrize("command", ["run", "plan", "store list", "store clean --yes", "lineage x/1"])
def test_a_home_below_a_closed_folder(there, capsys, command):
    (there / "closed").chmod(0o000)
    told = refused(capsys, *command.split(), "--home", there / "closed" / "h")
    assert f"the home {there}/closed/h can be neither read nor written to (Permission denied)" in told
    assert "name another home with --home DIR" in told


@pytest.mark.parametrize("argv", [["store", "list"], ["run"], ["promote", "tinygptv/1"]])
def test_a_file_in_the_place_of_a_home(there, capsys, argv):
    (there / "file").touch()
    told = refused(capsys, *argv, "--home", there / "file")
    assert f"the home {there}/file is no folder: {there}/file is a file" in told


def test_a_home_that_may_only_be_read_is_not_cleaned(there, capsys):
    home = made_home(there / "home")
    for path in home.root.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    home.root.chmod(0o555)
    told = refused(capsys, "store", "clean", "--yes", "--home", home.root)
    assert f"the home {home.root} cannot be written to (Permission denied)" in told and "--home DIR" in told
    home.root.chmod(0o755)


def test_a_picture_that_may_not_be_read(there, capsys):
    (there / "shown.png").touch()
    (there / "shown.png").chmod(0o000)
    with as_nobody():
        assert main(["ask", "tinygptv/1", str(there / "shown.png"), "what?", "--home", str(there / "none")]) == 2
    told = capsys.readouterr().err
    assert f"{there}/shown.png cannot be read (Permission denied); let this user read it" in told


def test_an_export_into_a_closed_folder(there, capsys):
    home = made_home(there / "home")
    (there / "closed").chmod(0o555)
    argv = ["weights", "export", home.made["stage1/train"].digest[:12], there / "closed" / "out.pth"]
    told = refused(capsys, *argv, "--to", "published", "--home", home.root)
    assert f"{there}/closed cannot be written to (Permission denied)" in told and "name another place than" in told
