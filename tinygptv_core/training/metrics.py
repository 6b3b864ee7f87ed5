"""`metrics.jsonl`, which training writes and others follow while it grows: a line a logged step."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygptv_core.drafts import write_whole

Line = Mapping[str, Any]
"""What is known at a logged step, with the names that docs/map.md has. An earlier version's may have fewer."""

GROUPS = {"losses": "loss", "step_seconds": "seconds"}
"""What of a line is several numbers -> what stands before the name of each."""
UNTOLD = ("step", "seconds")
"""Where a line stands, and no number about it."""


class MetricsFile:
    """Writes the file, each step once.

    Args:
        after_step: of what a killed run left, lines beyond this step are dropped: they will come again.
    """

    def __init__(self, path: Path, *, after_step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(_written(line) for line in lines_of(path) if line["step"] <= after_step))
        self._path = path

    def write(self, line: Line) -> None:
        """Append one line. Raises OSError, which names the file."""
        try:
            with self._path.open("a") as file:
                file.write(_written(line))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


class Tail:
    """Follows the file: `read` gives the lines that have come since, each step once, whoever writes it again.

    Of a step that a resumed run does again the first line stands; both say the same.
    """

    def __init__(self, path: Path):
        self._path, self._inode, self._offset, self._step = path, 0, 0, 0

    def read(self) -> list[Line]:
        """The whole lines beyond the last step that was read; none while there is no file."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                file.seek(self._offset if inode == self._inode else 0)
                data = file.read()
                end = data.rfind(b"\n") + 1
                self._inode, self._offset = inode, file.tell() - len(data) + end
        except FileNotFoundError:
            return []
        lines = [line for line in _lines(data[:end]) if line["step"] > self._step]
        self._step = lines[-1]["step"] if lines else self._step
        return lines


def lines_of(path: Path) -> list[Line]:
    """The whole lines of the file; none where there is no file."""
    return _lines(path.read_bytes()) if path.exists() else []


def numbers(line: Line) -> Mapping[str, float]:
    """All that a line measures under one name each, as `loss/scenes_vqa` and `seconds/data`."""
    plain = {name: value for name, value in line.items() if name not in UNTOLD and isinstance(value, (int, float))}
    grouped = {f"{GROUPS[name]}/{of}": value for name in GROUPS for of, value in line.get(name, {}).items()}
    return plain | grouped


def words(line: Line) -> str:
    """What a person wants to know of a line, but for the time that is left."""
    told = f"loss {line.get('loss_mean', line['loss']):.3f}, {line['samples_per_second']:.0f} samples/s"
    return f"{told}, {line['mfu']:.0%} of peak" if line.get("mfu") is not None else told


def left(line: Line, total: int) -> str:
    """How long the rest of `total` steps takes, by all steps so far: `1:15`, `2:03:20`."""
    return clock(line["seconds"] / line["step"] * (total - line["step"]))


def clock(seconds: float) -> str:
    """75 -> "1:15", 7400 -> "2:03:20"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _written(line: Line) -> str:
    return json.dumps(line) + "\n"


def _lines(data: bytes) -> list[Line]:
    """The lines that are whole: a kill cuts one's end off, the loss of power its beginning or what is between."""
    told = map(_told, data.split(b"\n")[:-1])
    return [line for line in told if line is not None]


def _told(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:  # nor is it UTF-8, perhaps
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
