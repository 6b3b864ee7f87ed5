"""Shards and stores on object storage: a server on loopback that speaks as S3 does."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli import main
from flows.deploy import make_bucket
from tasks.build import Store
from tasks.storing.remote import Remote, push
from tests.core.test_train import losses_of, quiet
from tests.core.tiny_run import OPTIONS, elsewhere, tiny_spec
from tests.deployments.s3 import BUCKET, serving_s3
from tests.tasks.made_store import made_home
from tinygptv_core.run import read_spec, write_spec
from tinygptv_core.train import train


@pytest.fixture(scope="module")
def s3():
    with serving_s3() as files:
        yield files


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_home(tmp_path_factory.mktemp("made") / "home")


@pytest.fixture
def url(s3, request):
    """A place of the test's own."""
    return f"s3://{BUCKET}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}/store"


def store(way, url, home, *digests):
    return main(["store", way, url, *digests, "--home", str(home)])


def files_of(root: Path) -> dict[str, bytes]:
    """Path -> bytes, of the artifacts and records of a store."""
    aside = ("stamps", "notes", "work", "leases", "damaged", "in-use")
    paths = [path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] not in aside]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_run_whose_shards_lie_on_s3_trains_to_the_same_bytes(s3, url, tmp_path, loader_workers):
    here = tiny_spec(tmp_path / "here")
    train(here, 0, 1, quiet)
    data = {}
    for name, folders in here.data.items():
        s3.put(str(folders.shards), f"{url}/{name}", recursive=True)
        data[name] = replace(folders, shards=f"{url}/{name}")
    options = replace(OPTIONS, loader_workers=loader_workers)
    there = replace(elsewhere(here, tmp_path / "there"), data=data, options=options)
    for folders in here.data.values():
        shutil.rmtree(folders.shards)
    (tmp_path / "there").mkdir()
    write_spec(there, tmp_path / "there" / "RUN.json")
    train(read_spec(tmp_path / "there" / "RUN.json"), 0, 1, quiet)
    assert losses_of(there) == losses_of(here)
    trained = "trainable.safetensors"
    assert (there.out / trained).read_bytes() == (here.out / trained).read_bytes()


def test_a_store_that_is_pushed_and_pulled_is_the_same_and_the_second_time_nothing_moves(made, url, tmp_path, capsys):
    assert store("push", url, made.root) == 0
    assert store("pull", url, tmp_path / "other") == 0
    assert files_of(tmp_path / "other" / "store") == files_of(made.root / "store")
    capsys.readouterr()
    assert store("push", url, made.root) == 0 and store("pull", url, tmp_path / "other") == 0
    assert capsys.readouterr().out.count(" 0 moved (0 bytes)") == 2


def test_what_a_report_shows_of_a_training_goes_along_with_its_record(made, url, tmp_path):
    """Also to where the record was brought without it; what is there already stays."""
    (key,) = {path.stem for path in (made.root / "store" / "keys" / "train").iterdir() if "stage1" in path.read_text()}
    told, other = made.store.notes(key), tmp_path / "other"
    assert store("push", url, made.root) == 0 and store("pull", url, other) == 0
    assert not list(other.glob("store/notes/*/summary.json"))
    told.mkdir(parents=True, exist_ok=True)
    for name, text in (("summary.json", '{"steps": 6}'), ("metrics.jsonl", "{}"), ("worker-0.log", "secret")):
        (told / name).write_text(text)
    assert store("push", url, made.root) == 0 and store("pull", url, other) == 0
    found = {path.name: path.read_text() for path in (other / "store" / "notes" / key).iterdir()}
    assert found == {"summary.json": '{"steps": 6}', "metrics.jsonl": "{}"}
    (told / "summary.json").write_text('{"steps": 7}')
    assert store("push", url, made.root) == 0 and store("pull", url, other) == 0
    assert (other / "store" / "notes" / key / "summary.json").read_text() == '{"steps": 6}'


@pytest.fixture
def trained(made, tmp_path):
    """A home of the test's own, the record of its first training, and where that tells how it went."""
    shutil.copytree(made.root, tmp_path / "home")
    (record,) = [path for path in (tmp_path / "home").glob("store/keys/train/*") if "stage1" in path.read_text()]
    notes = tmp_path / "home" / "store" / "notes" / record.stem
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    return tmp_path / "home", record, notes / "summary.json"


def test_a_push_leaves_the_notes_of_another_home_unless_they_are_of_another_digest(made, trained, url, s3):
    """With `--from` a training may give another one: then its record goes there, and what it tells with it."""
    home, record, summary = trained
    there = f"{url}/notes/{record.stem}"
    summary.write_text("first")
    assert store("push", url, home) == 0
    summary.write_text("second")
    summary.with_name("metrics.jsonl").write_text("new")
    assert store("push", url, home) == 0
    assert (s3.cat_file(f"{there}/summary.json"), s3.cat_file(f"{there}/metrics.jsonl")) == (b"first", b"new")
    told = json.loads(record.read_text())
    again = {**told, "digest": made.made["stage2/train"].digest, "others": [told["digest"]]}
    record.write_text(json.dumps(again))
    assert store("push", url, home) == 0
    assert s3.cat_file(f"{there}/summary.json") == b"second"


def test_a_push_that_was_stopped_before_its_records_sends_the_notes_again(trained, url, s3):
    home, record, summary = trained
    summary.write_text("whole")
    there = f"{url}/notes/{record.stem}/summary.json"
    s3.pipe_file(there, b"who")
    assert store("push", url, home) == 0
    assert s3.cat_file(there) == b"whole"


def test_of_one_artifact_only_what_it_is_made_from_goes_along(made, url, tmp_path, capsys):
    wanted = made.made["web/screen"]
    assert store("push", url, made.root) == 0
    assert store("pull", url, tmp_path / "other", wanted.digest[:12]) == 0
    kinds = {path.split("/")[0] for path in files_of(tmp_path / "other" / "store")}
    assert {"index", "shards", "table", "keys"} <= kinds and not kinds & {"checkpoint", "scores", "model"}
    assert store("pull", url, tmp_path / "other", "f" * 12) == 2
    assert f"ffffffffffff: 0 artifacts of that name in {url}" in capsys.readouterr().err


def test_a_push_that_was_interrupted_has_no_manifest_there_and_goes_on_where_it_was(made, url, tmp_path, monkeypatch):
    shards, sent = made.made["web/fetch"], []
    upload = Remote.upload

    def stop(self, folder, to, names):
        if folder == shards.path and "manifest.json" in names:
            raise KeyboardInterrupt
        upload(self, folder, to, names)
        sent.extend(f"{to}/{name}" for name in names)

    monkeypatch.setattr(Remote, "upload", stop)
    with pytest.raises(KeyboardInterrupt):
        push(made.store, url, [shards.digest], lambda text: None)
    before, there = list(sent), Remote(url).sealed()
    assert shards.digest[:12] not in there and not any(name.startswith("keys/") for name in sent)
    monkeypatch.setattr(Remote, "upload", lambda self, *args: (upload(self, *args), sent.append(args)))
    sent.clear()
    push(made.store, url, [shards.digest], lambda text: None)
    assert not {f"{to}/{name}" for _, to, names in sent for name in names} & set(before)
    assert shards.digest[:12] in Remote(url).sealed()


def test_what_was_changed_there_is_not_taken_in_and_what_is_whole_is_kept(made, url, s3, tmp_path, capsys):
    assert store("push", url, made.root) == 0
    checkpoint = made.made["stage1/train"]
    name = f"{url}/checkpoint/{checkpoint.digest[:12]}/trainable.safetensors"
    data = s3.cat_file(name)
    s3.pipe_file(name, data.swapcase())
    assert store("pull", url, tmp_path / "other", checkpoint.digest) == 1
    assert f"{name} is not what was pushed" in capsys.readouterr().err
    assert not (tmp_path / "other" / "store" / "checkpoint").exists()
    s3.pipe_file(name, data)
    assert store("pull", url, tmp_path / "other", checkpoint.digest) == 0
    assert Store(tmp_path / "other" / "store").sealed.find("checkpoint", checkpoint.digest) is not None


def test_a_manifest_that_would_write_elsewhere_is_refused(made, url, s3, tmp_path, capsys):
    """A record there speaks of an artifact whose manifest is as it says, and names a file outside."""
    store("push", url, made.root, made.made["stage1/train"].digest)
    manifest = json.dumps(
        [{"path": "../../../../evil", "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}]
    ).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    s3.pipe_file(f"{url}/checkpoint/{digest[:12]}/manifest.json", manifest)
    (record,) = [path for path in s3.find(f"{url}/keys/train")]
    s3.pipe_file(record, json.dumps({**json.loads(s3.cat_file(record)), "digest": digest, "others": []}).encode())
    assert store("pull", url, tmp_path / "other", digest) == 1
    assert "would lie elsewhere" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil"))


def test_a_record_under_another_requests_key_is_refused(made, url, s3, tmp_path, capsys):
    store("push", url, made.root, made.made["stage1/train"].digest)
    (record,) = s3.find(f"{url}/keys/train")
    s3.pipe_file(record, s3.cat_file(record).replace(b'"version": ', b'"version": 9'))
    assert store("pull", url, tmp_path / "other") == 1
    assert "does not have the key that its name says" in capsys.readouterr().err


def test_a_damaged_artifact_is_not_sent_and_places_that_cannot_be_used_are_told(made, url, tmp_path, capsys):
    shutil.copytree(made.root, tmp_path / "home")
    kept = tmp_path / "home" / "store" / "checkpoint"
    path = next(kept.glob("*/trainable.safetensors"))
    path.chmod(0o644)
    path.write_bytes(b"changed")
    assert store("push", url, tmp_path / "home") == 2
    assert "is damaged" in capsys.readouterr().err
    assert store("push", "s3://no-such-bucket/x", made.root) == 2
    assert "s3://no-such-bucket/x: " in capsys.readouterr().err
    assert store("pull", "nowhere://x", tmp_path / "other") == 2
    assert "nowhere://x cannot be used: Protocol not known: nowhere" in capsys.readouterr().err


def test_a_bucket_is_made_once(s3):
    make_bucket("another")
    make_bucket("another")
    assert "another" in [name.rstrip("/") for name in s3.ls("")]
