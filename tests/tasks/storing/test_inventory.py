"""Listing, verifying and cleaning a home that was made by hand (`made_store.py`)."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.cli import main
from flows.commands.store_report import unused
from tasks.build import Store
from tasks.lease import lease
from tasks.registering.registry import versions
from tasks.storing.inventory import ArtifactInventory, rebuilt_by, sweep
from tests.tasks.made_store import SECOND, copied, made_home


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_home(tmp_path_factory.mktemp("made") / "home")


@pytest.fixture
def home(made, tmp_path):
    return copied(made, tmp_path / "home")


def inventory(home, *, keep_data=True, days=7.0, unregistered=False, known=None):
    known = versions(home.uri, "tinygptv") if known is None else known
    return ArtifactInventory(home.root, known, keep_data=keep_data, days=days, unregistered=unregistered)


def manifests(store):
    return {path.relative_to(store) for path in store.glob("*/*/manifest.json")}


def store(home, *options):
    return main(["store", *options, "--home", str(home.root)])


def trained_again(home, run, **changes):
    """Stage 2 trained once more, in another run."""
    home.run = run
    home.stage(SECOND if not changes else SECOND.__class__(**{**vars(SECOND), **changes}), "stage1/train")
    return home.made["stage2/train"]


def steps(items):
    return sorted(name for item in items for name in item.steps)


def test_the_list_says_what_each_artifact_is_and_who_needs_it(home, capsys):
    assert store(home, "list", "--json") == 0
    told = {step: item for item in json.loads(capsys.readouterr().out) for step in item["steps"]}
    assert told.keys() == home.made.keys()
    shards = home.made["web/fetch"]
    assert (told["web/fetch"]["digest"], told["web/fetch"]["kind"]) == (shards.digest, "shards")
    assert told["web/fetch"]["bytes"] == sum(path.stat().st_size for path in shards.path.iterdir())
    assert told["web/fetch"]["needed"] == ["version tinygptv/1", "run r1, the newest of toy"]
    sealed = (shards.path / "manifest.json").stat().st_mtime
    assert told["web/fetch"]["time"] == sealed != home.time  # not when its run began
    assert store(home, "list") == 0
    assert f"{len(set(home.made.values()))} artifacts" in capsys.readouterr().out


def test_what_is_damaged_is_found_and_so_is_what_hides_behind_its_time(home, capsys):
    assert store(home, "verify") == 0
    capsys.readouterr()
    path = home.made["stage1/train"].path / "trainable.safetensors"
    times = path.stat().st_mtime_ns
    path.chmod(0o644)
    path.write_text(path.read_text().swapcase())
    os.utime(path, ns=(times, times))
    assert store(home, "verify") == 1
    told = capsys.readouterr().out
    assert "(stage1/train) is damaged: trainable.safetensors was changed" in told
    assert "to build it anew  tinygptv run --set a=1" in told


def test_a_damaged_record_or_report_is_named_and_nothing_is_cleaned(home, capsys):
    record = next((home.root / "store" / "keys" / "train").glob("*.json"))
    report = next((home.root / "runs").glob("*/report.json"))
    for path, what in ((record, "no record of a build"), (report, "no report of a run")):
        whole = path.read_bytes()
        path.write_bytes(whole[:50])
        for way in (["list"], ["verify"], ["clean", "--yes"]):
            assert store(home, *way) == 2
            assert f"{path} is damaged: it is {what}.\n  rm {path}  " in capsys.readouterr().err
        path.write_bytes(whole)
    assert store(home, "verify") == 0


@pytest.mark.parametrize("is_known", [True, False])
def test_a_forged_manifest_is_no_way_in(home, is_known):
    artifact = home.made["stage1/train"]
    (artifact.path / "trainable.safetensors").unlink()
    (artifact.path / "manifest.json").write_text("[]")
    if not is_known:
        for path in (home.store.root / "keys" / "train").iterdir():
            path.unlink()
    ((item, damage),) = [pair for pair in inventory(home).damage(lambda *told: None) if pair[0].path == artifact.path]
    assert damage == "its manifest is not the one that was sealed"
    assert rebuilt_by(item).startswith("tinygptv run" if is_known else "no record says")


def test_nothing_goes_that_a_version_or_the_newest_run_needs(home):
    assert sweep(inventory(home)).folders == ()
    old = home.made["stage2/train"]
    new = trained_again(home, "r2", seed=5)
    home.report("toy")
    assert sweep(inventory(home)).folders == ()  # the version needs the one, the newest run the other
    newest = trained_again(home, "r3", seed=6)
    os.utime(home.root / "runs" / "r2" / "report.json", (1, 1))
    home.report("toy")
    going = sweep(inventory(home)).folders
    assert [item.digest for item in going if item.kind == "checkpoint"] == [new.digest]
    assert not {old.digest, newest.digest} & {item.digest for item in going}


def test_of_every_preset_the_newest_run_and_the_newest_whole_one_are_needed(home):
    home.run = "half"
    trained_again(home, "half", seed=5)
    home.report("toy", whole=False)
    trained_again(home, "other", seed=6)
    home.report("another")
    needed = {need for item in inventory(home).artifacts for need in item.needed if need.startswith("run")}
    assert needed == {
        f"run {run}, the newest of {preset}" for run, preset in (("r1", "toy"), ("half", "toy"), ("other", "another"))
    }


def test_without_its_data_a_version_stays_and_what_the_newest_run_read_does_too(home):
    assert sweep(inventory(home, keep_data=False)).folders == ()
    (home.root / "runs" / "r1" / "report.json").unlink()
    assert sweep(inventory(home)).folders == ()
    going = steps(sweep(inventory(home, keep_data=False)).folders)
    kinds = {"rows", "filter", "fetch", "screen"}
    assert going == sorted(name for name in home.made if name.partition("/")[2] in kinds)


def test_a_model_that_the_registry_does_not_hold_stays_unless_it_is_named(home):
    """Another registry may hold it: MLFLOW_TRACKING_URI was set when it was registered, and is not now."""
    (home.root / "runs" / "r1" / "report.json").unlink()
    assert sweep(inventory(home, known=())).folders == ()
    assert steps(sweep(inventory(home, known=(), unregistered=True)).folders) == sorted(home.made)


def test_a_run_without_a_report_and_imported_weights_are_waited_for(home):
    home.time = time.time() - 3 * 86400
    left = trained_again(home, "killed", seed=5)
    assert sweep(inventory(home, days=7)).folders == ()
    assert left.digest in {item.digest for item in sweep(inventory(home, days=2)).folders}
    home.time = 0.0
    brought = trained_again(home, "import", seed=7)
    assert brought.digest not in {item.digest for item in sweep(inventory(home, days=2)).folders}


def test_what_a_killed_run_built_on_stays_though_another_run_made_it(home):
    """Run r1 made the data, others are the newest, nothing is registered; what was killed needs the data of r1."""
    home.time = time.time()
    trained_again(home, "killed", seed=5)
    (home.root / "runs" / "r1" / "report.json").unlink()
    going = steps(sweep(inventory(home, known=(), unregistered=True)).folders)
    assert going == ["register", "stage2/train"]  # the model, and the checkpoint of r1
    going = steps(sweep(inventory(home, known=(), unregistered=True, days=0)).folders)
    assert going == sorted([*home.made, "stage2/train"])


def test_cleaning_removes_what_it_said_and_the_store_says_that_it_is_missing(home, capsys):
    left = trained_again(home, "old", seed=5)
    scores = home.made["stage2/evaluate"]
    record = next(r for r in inventory(home).records.all if r.digest == left.digest)
    (home.store.notes(record.key) / "metrics.jsonl").write_text("{}\n")
    work = home.store.root / "work" / "train" / "abc"
    work.mkdir(parents=True)
    (work / "state").write_text("s" * 1000)
    os.utime(work / "state", (1, 1))
    os.utime(work, (1, 1))
    grave = home.store.root / "damaged" / "table-1"
    grave.mkdir(parents=True)
    before = sweep(inventory(home))
    assert {item.digest for item in before.folders} >= {left.digest} and before.work == (work,)
    assert before.bytes >= 1000 and store(home, "clean") == 0 and left.path.is_dir()
    assert "nothing was removed" in capsys.readouterr().out
    assert store(home, "clean", "--yes") == 0
    gone = (left.path, work, grave, home.store.notes(record.key))
    assert not any(path.exists() for path in gone) and scores.path.is_dir()
    assert list((home.store.root / "damaged").iterdir()) == []
    assert store(home, "verify") == 0
    assert "1 artifacts are gone whose records are there" in capsys.readouterr().out
    built = trained_again(home, "once more", seed=5)
    assert built.kind == "checkpoint" and built.path.is_dir()  # the key was no lie: it is built anew


def test_what_is_shared_counts_when_its_last_name_goes(home):
    left = trained_again(home, "old", seed=5)
    size = sum(path.stat().st_size for path in left.path.iterdir())
    assert sweep(inventory(home)).bytes == size + _notes(home)
    os.link(left.path / "trainable.safetensors", home.root / "another name")
    shared = (left.path / "trainable.safetensors").stat().st_size
    assert sweep(inventory(home)).bytes == size - shared + _notes(home)


def _notes(home):
    return sum(path.stat().st_size for folder in sweep(inventory(home)).notes for path in folder.rglob("*"))


def test_while_something_is_built_nothing_is_removed(home, capsys):
    left, key = trained_again(home, "old", seed=5), "f" * 64
    work = home.store.root / "work" / "train" / key
    work.mkdir(parents=True)
    os.utime(work, (1, 1))
    with lease(home.store.root / "leases" / key, lambda text: None):
        assert sweep(inventory(home)).work == ()
        assert store(home, "clean", "--yes") == 2
    assert f"process {os.getpid()} on" in capsys.readouterr().err and left.path.is_dir()
    assert sweep(inventory(home)).work == (work,)


def test_between_two_builds_of_a_run_nothing_is_removed(home, capsys):
    left, told = trained_again(home, "old", seed=5), []
    with home.store.in_use(told.append), home.store.in_use(told.append):  # two runs
        assert store(home, "clean", "--yes") == 2
        assert store(home, "clean") == 0
    assert f"a run goes on on {home.root}" in capsys.readouterr().err and left.path.is_dir() and told == []
    assert store(home, "clean", "--yes") == 0 and not left.path.exists()


def test_a_run_that_begins_while_the_store_is_cleaned_waits(home):
    told = queue.Queue()

    def run():
        with home.store.in_use(told.put):
            told.put("goes on")

    with unused(home.root):
        beside = threading.Thread(target=run)
        beside.start()
        assert told.get(timeout=60) == "waits for a cleaning of the store" and told.empty()
    assert told.get(timeout=60) == "goes on"
    beside.join()


def test_a_home_without_a_store_is_told(tmp_path, capsys):
    for argv in (["clean", "--yes"], ["list"], ["push", str(tmp_path / "there")]):
        assert main(["store", *argv, "--home", str(tmp_path)]) == 2
        assert f"there is no store in {tmp_path}" in capsys.readouterr().err
    assert not Store(tmp_path / "store").root.exists()


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_transfer_is_whole_though_nobody_reads_what_it_prints(home, tmp_path, way):
    there, root = tmp_path / "there", home.root if way == "push" else tmp_path / "other"
    if way == "pull":
        assert store(home, "push", str(there)) == 0
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-u", "-m", "flows.cli", "store", way, str(there), "--home", str(root)]
    assert subprocess.run(command, stdout=writing, cwd=Path(__file__).parents[3]).returncode == 0
    os.close(writing)
    assert manifests(there if way == "push" else root / "store") == manifests(home.root / "store")


def test_where_nothing_was_pushed_nothing_can_be_pulled(tmp_path, capsys):
    assert main(["store", "pull", str(tmp_path / "nowhere"), "--home", str(tmp_path / "home")]) == 2
    assert f"there is no store at {tmp_path}/nowhere" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
