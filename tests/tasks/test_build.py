"""The store: keys, digests, sealing, damage, forcing, leases."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from itertools import count

import pytest

import tasks.build as build_module
from tasks.build import Store, TakenOverError
from tasks.lease import lease
from tasks.request import Request, Step
from tasks.sealed import DamagedError
from tinygptv_core.plain import ConfigError

COUNT = Step(name="count", kind="number", version=1)
HOST = socket.gethostname()


@dataclass(frozen=True, kw_only=True)
class Config:
    to: int


def counting(to, runs, *, text=None, name="a/count"):
    def work(inputs, folders):
        runs.append(to)
        (folders.out / "deep").mkdir(exist_ok=True)
        (folders.out / "deep" / "number.txt").write_text(text or str(to))

    return Request(name=name, step=COUNT, config=Config(to=to), inputs={}, work=work)


def build(store, request, inputs=None, *, force=False, time=1.0):
    noted = {"run": f"run-{time}", "time": time}
    return store.build(request, inputs or {}, {}, noted=noted, force=force, waiting=lambda text: None)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_what_was_asked_before_is_served(store):
    runs = []
    first, second = build(store, counting(3, runs)), build(store, counting(3, runs))
    assert (first.action, second.action, runs) == ("build", "reuse", [3])
    assert second.artifact == first.artifact and second.why == "same request and inputs as in run run-1.0"


def test_the_digest_is_the_sha256_of_the_manifest_and_names_the_folder(store):
    artifact = build(store, counting(3, [])).artifact
    manifest = (artifact.path / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == artifact.digest
    assert artifact.path == store.root / "number" / artifact.digest[:12]
    assert (artifact.path / "deep" / "number.txt").stat().st_mode & 0o777 == 0o444
    sha256_of_3 = hashlib.sha256(b"3").hexdigest()
    assert json.loads(manifest) == [{"path": "deep/number.txt", "bytes": 1, "sha256": sha256_of_3}]


def test_two_requests_that_give_the_same_bytes_share_a_folder(store):
    one, two = build(store, counting(1, [], text="x")), build(store, counting(2, [], text="x"))
    assert one.key != two.key and one.artifact == two.artifact


@pytest.mark.parametrize("changed", ["config", "version", "input"])
def test_the_key_depends_on(store, changed):
    request, inputs = counting(1, []), {"from": build(store, counting(8, [])).artifact}
    before = store.key(request, inputs)
    if changed == "config":
        request = replace(request, config=Config(to=2))
    elif changed == "version":
        request = replace(request, step=replace(COUNT, version=2))
    else:
        inputs = {"from": build(store, counting(9, [])).artifact}
    assert store.key(request, inputs) != before


def test_the_key_does_not_depend_on_the_name_that_people_use(store):
    assert store.key(counting(1, []), {}) == store.key(counting(1, [], name="b/count"), {})


def test_what_differs_is_said_in_words(store):
    build(store, counting(3, []))
    assert store.lookup(counting(4, []), {}).why == "config.to 3 -> 4"
    assert store.lookup(counting(4, [], name="b/count"), {}).why == "never built on this home"


@pytest.mark.parametrize("damaged", [b"", b'{"name": "a/c', b"[]", b'{"name": "a/count"}', bytes(100)])
def test_a_damaged_record_is_named_with_what_helps(store, damaged):
    built = build(store, counting(3, []))
    path = store.root / "keys" / "count" / f"{built.key}.json"
    path.write_bytes(damaged)
    for asked in (counting(3, []), counting(4, [])):  # the same, and one that is compared with it
        with pytest.raises(ConfigError, match=f"{path} is damaged: it is no record.*\n  rm {path}  lets"):
            build(store, asked)
    path.unlink()
    assert build(store, counting(3, [])).artifact == built.artifact


@pytest.mark.parametrize("damaged", ["", "{", "[]"])
def test_damaged_stamps_cost_hashing_alone(store, damaged):
    built = build(store, counting(3, []))
    (stamps,) = (store.root / "stamps").iterdir()
    stamps.write_text(damaged)
    assert build(store, counting(3, [])).action == "reuse"
    assert stamps.read_text() != damaged and built.artifact.path.exists()


def touch(artifact):
    path = artifact.path / "deep" / "number.txt"
    path.chmod(0o644)
    path.write_text("4")


def remove(artifact):
    (artifact.path / "deep" / "number.txt").unlink()


def lengthen(artifact):
    path = artifact.path / "deep" / "number.txt"
    path.chmod(0o644)
    path.write_text("33")


def add(artifact):
    (artifact.path / "more.txt").write_text("more")


def lose_manifest(artifact):
    (artifact.path / "manifest.json").unlink()


def forge_manifest(artifact):
    (artifact.path / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (touch, "deep/number.txt was changed"),
        (remove, "deep/number.txt is missing"),
        (lengthen, "deep/number.txt has 2 bytes, not 1"),
        (add, "more.txt was added"),
        (lose_manifest, "its manifest is missing"),
        (forge_manifest, "its manifest is not the one that was sealed"),
    ],
)
def test_a_damaged_folder_is_not_served_but_built_anew(store, harm, said):
    runs = []
    artifact = build(store, counting(3, runs)).artifact
    harm(artifact)
    again = build(store, counting(3, runs))
    assert again.action == "build" and said in again.why and runs == [3, 3]
    assert again.artifact == artifact and (artifact.path / "deep" / "number.txt").read_text() == "3"
    assert build(store, counting(3, runs)).action == "reuse"


def test_a_change_that_hides_behind_its_time_stamp_is_found_before_it_is_read(store):
    artifact = build(store, counting(3, [])).artifact
    path = artifact.path / "deep" / "number.txt"
    stamp = path.stat().st_mtime_ns
    touch(artifact)
    os.utime(path, ns=(stamp, stamp))
    with pytest.raises(DamagedError, match="was changed"):
        build(store, counting(4, []), {"from": artifact})
    assert build(store, counting(3, [])).action == "build"


def test_a_failed_build_leaves_its_work_and_no_artifact(store):
    def fail(inputs, folders):
        (folders.scratch / "half").write_text("half")
        raise RuntimeError("no")

    request = replace(counting(3, []), work=fail)
    with pytest.raises(RuntimeError):
        build(store, request)
    assert store.lookup(request, {}).artifact is None

    def go_on(inputs, folders):
        (folders.out / "number.txt").write_text((folders.scratch / "half").read_text())

    built = build(store, replace(request, work=go_on))
    assert (built.artifact.path / "number.txt").read_text() == "half"
    assert not list((store.root / "work" / "count").iterdir())


def test_a_build_that_was_killed_while_it_sealed_goes_on_to_the_same_digest(store, tmp_path):
    request = counting(3, [])
    wanted = build(Store(tmp_path / "elsewhere"), request).artifact.digest
    work = store.root / "work" / "count" / store.key(request, {})
    left = work / "out" / "deep" / "number.txt"
    left.parent.mkdir(parents=True)
    left.write_text("3")
    left.chmod(0o444)
    for draft in (work / "manifest.json.1.partial", work / "out" / "manifest.json"):
        draft.write_text("[")
    assert build(store, request).artifact.digest == wanted


def test_the_first_digest_stands_unless_another_is_forced(store):
    first = build(store, counting(3, [])).artifact
    other = counting(3, [], text="other")
    assert build(store, other).artifact == first
    forced = build(store, other, force=True).artifact
    assert forced != first and build(store, other).artifact == forced
    record = json.loads(next((store.root / "keys" / "count").iterdir()).read_text())
    assert record["digest"] == forced.digest and record["others"] == [first.digest] and first.path.exists()


def test_what_is_gone_elsewhere_is_built_anew(store):
    runs = []
    request = counting(3, runs)
    build(store, request)
    assert build(store, replace(request, gone=lambda artifact: "the registry lost it")).why == "the registry lost it"
    assert runs == [3, 3]


def test_a_step_that_writes_nothing_or_a_link_is_refused(store):
    with pytest.raises(ValueError, match="wrote nothing"):
        build(store, replace(counting(3, []), work=lambda inputs, folders: None))
    with pytest.raises(ValueError, match="neither a plain file nor a folder"):
        build(store, replace(counting(3, []), work=lambda inputs, folders: (folders.out / "x").symlink_to("/dev/null")))


def test_two_builds_of_one_key_make_it_once_and_the_second_says_for_whom_it_waits(store):
    runs, told, entered, go_on = [], [], threading.Event(), threading.Event()

    def slow(inputs, folders):
        runs.append(1)
        entered.set()
        assert go_on.wait(20)
        (folders.out / "x").write_text("x")

    request = replace(counting(3, []), work=slow)
    first = threading.Thread(target=build, args=(store, request))
    first.start()
    assert entered.wait(20)

    def wait_and_see(text):
        told.append(text)
        go_on.set()

    built = store.build(request, {}, {}, noted={"run": "2", "time": 2.0}, force=False, waiting=wait_and_see)
    first.join()
    assert built.action == "reuse" and runs == [1]
    assert told == [f"waits for process {os.getpid()} on {os.uname().nodename}, which is building the same"]


def test_a_dead_holders_lease_is_taken_over(tmp_path):
    path = tmp_path / "lease"
    holding = f"from pathlib import Path; from tasks.lease import _take, myself; _take(Path({str(path)!r}), myself())"
    subprocess.run([sys.executable, "-c", holding], check=True)
    assert path.exists()
    told = []
    with lease(path, told.append):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    assert told == []


def test_a_build_that_another_machine_took_over_seals_nothing_and_leaves_the_work_to_it(store):
    """It writes in the same folder, and may be half done there when this one wakes up."""
    elsewhere = json.dumps({"host": "elsewhere", "boot": "b", "pid": 1, "started": 1})

    def work(inputs, folders):
        (folders.out / "answers").write_text("half of the other's")
        (lease_of_it,) = (store.root / "leases").iterdir()
        lease_of_it.write_text(elsewhere)

    request = replace(counting(3, []), work=work)
    with pytest.raises(TakenOverError, match=r"a/count: .* another run has gone on with its work"):
        build(store, request)
    assert not (store.root / "number").exists() and store.lookup(request, {}).artifact is None
    (left,) = store.root.glob("work/count/*/out/answers")
    (lease_of_it,) = (store.root / "leases").iterdir()
    assert left.exists() and lease_of_it.read_text() == elsewhere


def test_what_a_build_left_that_was_killed_after_it_was_noted_is_removed(store):
    request = counting(3, [])
    key = build(store, request).key
    work = store.root / "work" / "count" / key
    (work / "scratch").mkdir(parents=True)
    with lease(store.root / "leases" / key, lambda text: None):  # somebody makes it anew
        assert build(store, request).action == "reuse" and work.exists()
    assert build(store, request).action == "reuse" and not work.exists()


def test_a_forced_build_that_was_killed_goes_on_though_the_earlier_one_was_reused_in_between(store):
    request, found = counting(3, []), []
    first = build(store, request)

    def killed(inputs, folders):
        (folders.scratch / "state").write_text("half")
        raise KeyboardInterrupt

    def goes_on(inputs, folders):
        found.append((folders.scratch / "state").read_text())
        request.work(inputs, folders)

    with pytest.raises(KeyboardInterrupt):
        build(store, replace(request, work=killed), force=True)
    assert build(store, request).artifact == first.artifact
    build(store, replace(request, work=goes_on), force=True)
    assert found == ["half"]


def test_what_a_forced_build_tells_takes_the_place_of_what_was_told_when_it_is_done(store):
    def telling(words, error=None):
        def work(inputs, folders):
            (folders.notes / words).write_text(words)
            if error:
                raise error
            request.work(inputs, folders)

        return replace(request, work=work)

    def told():
        return {path.name for path in notes.iterdir()}

    request = counting(3, [])
    notes = store.notes(build(store, telling("first")).key)
    with pytest.raises(KeyboardInterrupt):
        build(store, telling("half", KeyboardInterrupt()), force=True)
    assert told() == {"first"} and build(store, request).action == "reuse"
    build(store, telling("rest"), force=True)
    assert told() == {"half", "rest"}


def in_two_parts(text):
    """What a step that goes on where it was killed tells: each of its parts once."""

    def work(inputs, folders):
        if not (folders.scratch / "state").exists():
            (folders.notes / f"{text}-1").touch()
            (folders.scratch / "state").touch()
        (folders.notes / f"{text}-2").touch()
        (folders.out / "number.txt").write_text(text)

    return replace(counting(3, []), work=work)


def told(store, built):
    return (built.artifact.path / "number.txt").read_text(), sorted(os.listdir(store.notes(built.key)))


def killed_at(line, work):
    """`work`, if it has not ended before, is killed before the line of that number that the store comes to."""
    come = count()

    def at_line(frame, event, _argument):
        if event == "line" and next(come) == line:
            raise KeyboardInterrupt
        return at_line

    def at_call(frame, _event, _argument):
        return at_line if frame.f_code.co_filename == build_module.__file__ and frame.f_code.co_name != "work" else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_wherever_a_forced_build_is_killed_notes_are_those_of_what_they_lie_beside(tmp_path):
    first, anew = in_two_parts("first"), in_two_parts("anew")
    whole, texts, lines = ["anew-1", "anew-2"], set(), count()
    while True:
        line = next(lines)
        store = Store(tmp_path / str(line))
        build(store, first)
        if not killed_at(line, lambda store=store: build(store, anew, force=True)):
            break
        text, notes = told(store, build(store, first))
        assert notes == [f"{text}-1", f"{text}-2"]
        texts.add(text)
        assert told(store, build(store, anew, force=True)) == ("anew", whole)
        assert not list(store.root.glob("work/*/*"))
    assert texts == {"first", "anew"} and line > 50
    assert told(store, build(store, first)) == ("anew", whole)


def test_a_forced_build_of_what_is_not_there_yet_goes_on_with_what_it_told_though_it_is_no_longer_forced(store):
    request = in_two_parts("first")

    def killed(inputs, folders):
        request.work(inputs, folders)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(store, replace(request, work=killed), force=True)
    assert told(store, build(store, request)) == ("first", ["first-1", "first-2"])


def test_the_next_writer_of_a_file_removes_what_killed_ones_left_of_it(store):
    """One is no more; one is at work, on this machine; of one on another machine nobody here can tell."""
    request = counting(3, [])
    artifact = build(store, request).artifact
    stamps = store.root / "stamps"
    (name,) = (path.name for path in stamps.iterdir())
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    dead, other_file = f"{name}.{HOST}-{gone.pid}-1.partial", f"more-{name}.{HOST}-{gone.pid}-1.partial"
    at_work, elsewhere = f"{name}.{HOST}-{os.getppid()}-1.partial", f"{name}.elsewhere-{gone.pid}-1.partial"
    for left in (dead, other_file, at_work, elsewhere):
        (stamps / left).write_text("{")
    assert build(store, request).action == "reuse" and (stamps / dead).exists()  # nothing was written
    store.sealed.forget(artifact)
    assert build(store, request).action == "reuse"
    assert {path.name for path in stamps.iterdir()} == {name, other_file, at_work, elsewhere}


def test_who_takes_a_lease_removes_what_was_killed_while_it_took_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    (tmp_path / f"key.{HOST}-{gone.pid}-1.partial").write_text("{")
    with lease(tmp_path / "key", lambda text: None):
        assert [path.name for path in tmp_path.iterdir()] == ["key"]
