"""Commands on a home that lies on disks of its own: `unshare -rm python failing_home.py WHAT FOLDER`. Prints JSON."""

import json
import subprocess
import sys
import time
from pathlib import Path

from conftest import PATIENCE_SECONDS, Home

from tests.tasks.small_disk import fill, make_room, mounted

SMALL = {"scenes.pretraining_pictures": 160, "scenes.instruction_pictures": 16, "scenes.held_out_pictures": 8}
DATA = ["data", "scenes_web", *(word for name, value in SMALL.items() for word in ("--set", f"{name}={value}"))]


def outcome(home, meanwhile=lambda process: None):
    """(exit status, what was said, the artifacts) of one command."""
    with home.start(*DATA) as process:
        meanwhile(process)
        out, said = process.communicate()
    steps = json.loads(Path(out.splitlines()[-1]).read_text())["steps"] if process.returncode == 0 else []
    return process.returncode, said, {step["step"]: step["artifact"] for step in steps}


def small(folder):
    """A disk that has no room for Prefect's database, then one that becomes full during the fetch, then enough."""
    home = Home(path=folder / "home", watch=folder / "connections.txt")
    mounted(home.path, 1_000_000)
    found = [outcome(home)]
    mounted(home.path, 200_000_000, "remount")

    def fill_during_the_fetch(process):
        end = time.monotonic() + PATIENCE_SECONDS
        while not list(home.path.glob("store/work/fetch/*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        fill(home.path)

    found.append(outcome(home, fill_during_the_fetch))
    make_room(home.path)
    return [*found, outcome(home)]


def read_only(folder):
    """A store on a disk that may not be written to."""
    home = Home(path=folder / "home", watch=folder / "connections.txt")
    mounted(home.path / "store", 1_000_000, "ro")
    found = outcome(home)
    subprocess.run(["umount", str(home.path / "store")], check=True)
    return found, sorted(path.name for path in home.path.rglob("*"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"small": small, "read_only": read_only}[sys.argv[1]](Path(sys.argv[2]))))
