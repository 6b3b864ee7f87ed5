"""What is done on a disk of our own that becomes full: `unshare -rm python -m tests.tasks.small_disk WHAT FOLDER`."""

import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tasks.shortages import has_no_room, what_is_full

DISK_BYTES = 64_000_000


def mounted(folder, size=DISK_BYTES, *more):
    """Mount a tmpfs of so many bytes at `folder`, or give the one that is there another size (`remount`)."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ",".join([*more, f"size={size}"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    return folder


def fill(disk):
    """Leave no byte of it."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 20)):
                pass
        except OSError as error:
            assert has_no_room(error)


def make_room(disk):
    (disk / "filler").unlink()


@contextmanager
def failing(disk):
    """The block must fail of the full disk, and the message must name it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of whichever library
        assert has_no_room(error), error
        assert f"no space left on the file system at {disk}, which holds" in what_is_full(error, [disk])
    else:
        raise AssertionError("it did not fail")


def seal(folder):
    """The disk becomes full when all is made and only the manifest is to be written."""
    from tasks.build import Store
    from tasks.request import Request, Step

    disk = mounted(folder / "disk")

    def work(inputs, folders):
        (folders.out / "number.txt").write_text("3")
        if folders.out.is_relative_to(disk) and not (disk / "filler").exists():
            fill(disk)

    def built(root):
        step = Step(name="count", kind="number", version=1)
        request = Request(name="a/count", step=step, config={}, inputs={}, work=work)
        noted = {"run": "r", "time": 0.0}
        return Store(root).build(request, {}, {}, noted=noted, force=False, waiting=lambda text: None)

    with failing(disk):
        built(disk / "store")
    assert not list((disk / "store").glob("number/*")) and not list((disk / "store").glob("keys/*/*"))
    make_room(disk)
    (disk / "filler").touch()
    again = built(disk / "store")
    assert (again.action, again.artifact.digest) == ("build", built(folder / "store").artifact.digest)


def state(folder):
    """The disk becomes full in the middle of training, which then cannot save its state."""
    from tests.core.tiny_run import OPTIONS, STAGE, elsewhere, tiny_spec
    from tinygptv_core.train import train

    disk = mounted(folder / "disk")
    stage = replace(STAGE, schedule=replace(STAGE.schedule, steps=30))
    spec = tiny_spec(folder, dropout=0.1, stage=stage, options=replace(OPTIONS, save_every_steps=5))
    train(spec, 0, 1, lambda done, total, text: None)
    small = replace(elsewhere(spec, folder / "small"), work=disk / "work")
    with failing(disk):
        train(small, 0, 1, lambda done, total, text: fill(disk) if done == 12 else None)
    assert not (small.out / "trainable.safetensors").exists()
    make_room(disk)
    train(small, 0, 1, lambda done, total, text: None)
    for name in ("trainable.safetensors", "stage.json"):
        assert (small.out / name).read_bytes() == (spec.out / name).read_bytes()


def mlflow(folder):
    """The disk becomes full before MLflow's database is there, before a stage is tracked, before a registration."""
    from tasks.register import import_mlflow, register_version
    from tasks.registering.mlflow_database import make_database
    from tasks.registering.registry import versions
    from tasks.track import Tracking, tracking_stage
    from tests.tasks.registered import new_home

    disk = mounted(folder / "disk")
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    import_mlflow()
    home = new_home(disk)
    checkpoint = home.checkpoint(1)
    model, registration = home.model(checkpoint), home.registration(checkpoint, home.uri)
    fill(disk)
    with failing(disk):
        make_database(home.uri)
    make_room(disk)
    make_database(home.uri)
    fill(disk)
    tracking = Tracking(uri=home.uri, experiment="tinygptv", artifacts=registration.artifacts)
    with tracking_stage(tracking, "stage1", {}, folder, None) as run_id:
        assert run_id is None  # and training goes on
    with failing(disk):
        register_version(model, registration)
    make_room(disk)
    assert register_version(model, registration).version == "1" and len(versions(home.uri, "tinygptv")) == 1


if __name__ == "__main__":
    {"seal": seal, "state": state, "mlflow": mlflow}[sys.argv[1]](Path(os.path.realpath(sys.argv[2])))
