import os
from pathlib import Path

import pytest
import torch

from tests.core.tiny_run import no_room
from tinygptv_core.plain import ConfigError
from tinygptv_core.training.states import Position, State, drop_states_after, load_state, save_state


def position(step: int) -> Position:
    return Position(run="r" * 64, step=step, seconds=1.5, loss_first=0.1 + 0.2)


def state(step: int) -> State:
    return State(position=position(step), tensors={"parameter/a": torch.full((3,), float(step))})


def names_in(folder):
    return sorted(path.name[:15] for path in folder.iterdir())


def untold(notice: str) -> None:
    raise AssertionError(notice)


def test_a_state_reads_back_to_the_last_bit(tmp_path):
    save_state(tmp_path, state(7), keep=2)
    read = load_state(tmp_path, "r" * 64, untold)
    assert read is not None
    assert read.position == position(7)
    assert read.tensors["parameter/a"].tolist() == [7, 7, 7]


def test_without_a_state_there_is_none(tmp_path):
    assert load_state(tmp_path / "nothing", "r" * 64, untold) is None


def test_the_last_states_are_kept_and_nothing_else(tmp_path):
    (tmp_path / "writing").mkdir()
    (tmp_path / "writing" / ".tmp1").write_text("what a killed run left")
    for step in (1, 2, 3):
        save_state(tmp_path, state(step), keep=2)
    assert names_in(tmp_path) == ["state-000000002", "state-000000003"]
    save_state(tmp_path, state(4), keep=1)
    assert names_in(tmp_path) == ["state-000000004"]


def test_a_state_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path, monkeypatch):
    """Or a loss of power could leave the name of a state without its bytes, or none of those that were to be kept."""
    synced, fsync = [], os.fsync

    def watched(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.relative_to(tmp_path), names_in(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", watched)
    save_state(tmp_path, state(7), keep=2)
    assert synced == [(Path("writing/state"), ["writing"]), (Path(), ["state-000000007", "writing"])]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"\xff", lambda data: b""])
def test_a_damaged_newest_state_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    for step in (1, 2):
        save_state(tmp_path, state(step), keep=2)
    newest = next(tmp_path.glob("state-000000002-*"))
    newest.write_bytes(damage(newest.read_bytes()))
    notices: list[str] = []
    read = load_state(tmp_path, "r" * 64, notices.append)
    assert read is not None
    assert read.position.step == 1
    assert notices == [
        "the state after step 2 was damaged (its bytes are not those its name says): went on from step 1"
    ]


def test_where_every_state_is_damaged_the_run_begins_anew_and_says_so(tmp_path):
    save_state(tmp_path, state(2), keep=2)
    next(tmp_path.iterdir()).write_bytes(b"")
    notices: list[str] = []
    assert load_state(tmp_path, "r" * 64, notices.append) is None
    assert [notice.endswith("began anew") for notice in notices] == [True]


def test_a_state_that_was_passed_over_is_not_counted_among_the_kept(tmp_path):
    """Of 1 and a damaged 2, after going on from 1 and saving 3, there are 1 and 3."""
    for step in (1, 2):
        save_state(tmp_path, state(step), keep=2)
    drop_states_after(tmp_path, 1)
    save_state(tmp_path, state(3), keep=2)
    assert names_in(tmp_path) == ["state-000000001", "state-000000003"]


def test_what_was_damaged_is_told_again_until_a_state_is_saved(tmp_path):
    """A run that is killed before has told it to nobody but its log."""
    for step in (1, 2):
        save_state(tmp_path, state(step), keep=2)
    next(tmp_path.glob("state-000000002-*")).write_bytes(b"")
    told: list[list[str]] = []
    for _ in range(2):
        told.append([])
        read = load_state(tmp_path, "r" * 64, told[-1].append)
        assert read is not None
        drop_states_after(tmp_path, read.position.step)
    assert told[0] == told[1] and len(told[0]) == 1
    save_state(tmp_path, state(3), keep=2)
    assert load_state(tmp_path, "r" * 64, untold) is not None
    assert len([*tmp_path.iterdir()]) == 2


def test_what_was_damaged_is_told_once_by_who_goes_on_after_a_kill_while_it_was_dropped(tmp_path, monkeypatch):
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    for step in (1, 2):
        save_state(tmp_path, state(step), keep=2)
    next(tmp_path.glob("state-000000002-*")).write_bytes(b"")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("os.truncate", killed)
        patched.setattr("pathlib.Path.unlink", killed)
        drop_states_after(tmp_path, 1)
    told: list[str] = []
    assert load_state(tmp_path, "r" * 64, told.append) is not None
    assert len(told) == 1


def test_a_disk_without_room_is_told_and_leaves_the_states_before(tmp_path):
    save_state(tmp_path, state(1), keep=2)
    large = State(position=position(2), tensors={"parameter/a": torch.ones(300)})
    with no_room(), pytest.raises(OSError, match=r"state after step 2 could not be written to .*too large.* stay\.$"):
        save_state(tmp_path, large, keep=2)
    assert names_in(tmp_path) == ["state-000000001"]


def test_the_state_of_another_run_is_refused(tmp_path):
    save_state(tmp_path, state(1), keep=2)
    with pytest.raises(ConfigError, match="holds the state of another run"):
        load_state(tmp_path, "s" * 64, untold)
