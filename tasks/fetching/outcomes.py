"""Read what img2dataset wrote: for each row of one of its shards what became of it, and where its picture lies.

It writes into a folder, for each shard, a tar, a parquet file with a line per row and, last, `_stats.json`; our own
process writes `.progress` beside them while a shard is being fetched.
"""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.tables import KEPT

ROW_COLUMN = "row"
"""The column that carries a row's key through img2dataset, which has a `key` of its own."""

LOST = "lost"
RETRIED = re.compile(r"http_(5\d\d|408|429)|timeout|incomplete_body|resolver_failed|lost")
"""The reasons that may have gone by a little later; a 404 has not."""

_REASON_AND_DETAIL = re.compile(r"([a-z][a-z0-9_]*): (.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where bytes lie: `size` of them from `offset` on in `file`."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one row: `fate` is `KEPT` or the reason of the drop; the rest as in the ledger.

    `picture` says where its bytes lie, if they are still to be packed.
    """

    fate: str
    detail: str
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    picture: Span | None = None


def lost() -> Outcome:
    """The outcome of a row that img2dataset says nothing of."""
    return Outcome(fate=LOST, detail="img2dataset wrote nothing about it")


def finished_shards(folder: Path) -> dict[int, int]:
    """The shards that are finished, and how many rows each has."""
    found: dict[int, int] = {}
    for path in sorted(folder.glob("*_stats.json")):
        try:
            found[int(path.name.split("_")[0])] = json.loads(path.read_text())["count"]
        except (KeyError, ValueError):  # being written, or left so by a kill
            continue
    return found


def progress_file(folder: Path, shard: int) -> Path:
    """Where the process that fetches a shard says how far it is: `{fate: rows}`."""
    return folder / f"{shard:05d}.progress"


def progress_of(folder: Path) -> Counter[str]:
    """The fates of all rows of `folder` that were tried so far, those of unfinished shards among them."""
    found: Counter[str] = Counter()
    for path in folder.glob("*.progress"):
        found.update(json.loads(path.read_text()))
    return found


def is_whole(folder: Path, shard: int, rows: int) -> bool:
    """Whether what was written of a finished shard can be read. A machine that loses its power may keep half of it."""
    import pyarrow as pa

    try:
        told = json.loads(progress_file(folder, shard).read_bytes())
        return sum(told.values()) == len(outcomes_of(folder, shard)) == rows
    except (pa.ArrowException, tarfile.TarError, OSError, LookupError, StopIteration, ValueError):
        return False


def forget(folder: Path, shard: int) -> None:
    """Remove what there is of a shard, so that it is fetched anew."""
    (folder / f"{shard:05d}_stats.json").unlink(missing_ok=True)  # first: without it the shard is not finished
    for path in folder.glob(f"{shard:05d}.*"):
        path.unlink()


def outcomes_of(folder: Path, shard: int) -> dict[str, Outcome]:
    """The outcomes of one finished shard, by row key."""
    import pyarrow.parquet as pq

    path = next(folder.glob(f"*{shard:05d}.parquet"))
    places = _places(path.with_suffix(".tar"))
    columns = [ROW_COLUMN, "key", "status", "error_message", "sha256", "original_width", "original_height"]
    table = pq.read_table(path, columns=columns).to_pydict()
    found: dict[str, Outcome] = {}
    for row, key, status, message, sha256, width, height in zip(*(table[name] for name in columns), strict=True):
        if status == "success":
            found[row] = Outcome(fate=KEPT, detail="", sha256=sha256, width=width, height=height, picture=places[key])
        else:
            fate, detail = reason_of(status, message or "")
            found[row] = Outcome(fate=fate, detail=detail)
    return found


def _places(tar: Path) -> dict[str, Span]:
    """Where each picture lies in one of img2dataset's tars, by img2dataset's key."""
    with tarfile.open(tar) as archive:
        return {
            member.name.removesuffix(".jpg"): Span(file=tar, offset=member.offset_data, size=member.size)
            for member in archive
            if member.name.endswith(".jpg")
        }


def reason_of(status: str, message: str) -> tuple[str, str]:
    """The reason and detail in a message: ours read `reason: detail`, others are img2dataset's or its resizer's."""
    if match := _REASON_AND_DETAIL.fullmatch(message):
        return match[1], match[2]
    return ("undecodable" if status == "failed_to_resize" else "download_failed"), message


def to_retry(folder: Path, rows: Iterator[tuple[str, str]], samples_per_shard: int) -> Iterator[tuple[str, str]]:
    """Of `rows` (key, url), those whose failure may have gone by, in order."""
    shard, found = -1, dict[str, Outcome]()
    for position, (row, url) in enumerate(rows):
        if position // samples_per_shard != shard:
            shard = position // samples_per_shard
            found = outcomes_of(folder, shard) if shard in finished_shards(folder) else {}
        if RETRIED.fullmatch(found.get(row, lost()).fate):
            yield row, url
