"""Commands on a home that lies on disks of its own: `unshare -rm python failing_home.py WHAT FOLDER`. Prints JSON."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import Home

from tests.tasks.small_disk import mounted

SMALL = {"scenes.pretraining_pictures": 160, "scenes.instruction_pictures": 16, "scenes.held_out_pictures": 8}
DATA = ["data", "scenes_web", *(word for name, value in SMALL.items() for word in ("--set", f"{name}={value}"))]


def outcome(home):
    """(exit status, what was said, the artifacts) of one command."""
    with home.start(*DATA) as process:
        out, said = process.communicate()
    steps = json.loads(Path(out.splitlines()[-1]).read_text())["steps"] if process.returncode == 0 else []
    return process.returncode, said, {step["step"]: step["artifact"] for step in steps}


def small(folder):
    """A disk that has no room for Prefect's database, then none for what is fetched, then enough."""
    home = Home(path=folder / "home", watch=folder / "connections.txt")
    mounted(home.path, 1_000_000)
    found = [outcome(home)]
    for size in (8_000_000, 200_000_000):
        mounted(home.path, size, "remount")
        found.append(outcome(home))
    return found


def read_only(folder):
    """A store on a disk that may not be written to."""
    home = Home(path=folder / "home", watch=folder / "connections.txt")
    mounted(home.path / "store", 1_000_000, "ro")
    found = outcome(home)
    subprocess.run(["umount", str(home.path / "store")], check=True)
    return found, sorted(path.name for path in home.path.rglob("*"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"small": small, "read_only": read_only}[sys.argv[1]](Path(sys.argv[2]))))
