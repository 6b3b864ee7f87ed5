"""Sets of pictures, each kept once for all data sets that are about it, and the data sets' own shards beside them.

A set becomes a **pictures** artifact: every picture of a folder or an archive, in tars. The shards of a data set that
is about it hold its texts alone, and say where each picture lies in the set.
"""

import io
import json
import logging
import os
import tarfile
from array import array
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from tasks.fetch import ShardWriter
from tasks.fetching.outcomes import Outcome
from tasks.quantities import counted
from tasks.reading.archives import SUFFIXES, ArchivePicture, Limits, pictures_in
from tasks.request import Step, StepFolders
from tasks.tables import KEPT, ROWS_FILE, PictureRow, TableRow, TableWriter, Tally, clear, num_rows, read_table
from tinygptv_core.compute import Progress
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import PictureSet
from tinygptv_core.settings import Fetch

PICTURES = Step(name="pictures", kind="pictures", version=3)
GATHER = Step(name="gather", kind="shards", version=1)

PICTURES_FILE = "pictures.parquet"
PLACES_FILE = "pictures.npy"
TARS_FILE = "pictures.json"

TAR_BYTES = 1 << 30
MAX_BYTES = 64_000_000
"""A file of more bytes is no picture that an annotator has seen."""
MISSING = "missing"
TOLD_EVERY = 500
UNLIKE = 0.1
"""By what share the number of a set's pictures, or a file's size, may differ from what is expected and not be told."""


def write_pictures(pictures: PictureSet, source: Path, folders: StepFolders, progress: Progress) -> None:
    """Every picture of the folder or archive `source` into `folders.out`: tars, and a row for each file.

    Each is decoded once, here. They are in the order of their paths (in a tar, in its own), so that a folder and a zip
    of the same pictures give the same bytes.

    Raises:
        ConfigError: the archive is refused (`tasks/reading/archives.py`), or there is no picture.
    """
    clear(folders.out)
    tally, position, seen = Tally(), 0, set[str]()
    with TableWriter(folders.out / PICTURES_FILE, PictureRow) as table, _Tars(folders.out) as tars:
        for position, packed in enumerate(_packed(pictures, source), start=1):
            if position % TOLD_EVERY == 0:
                progress(position, pictures.pictures or position, "reading pictures")
            row = _added(packed, tars, seen)
            seen.add(packed.name)
            table.write(row)
            tally.count(row.fate)
    if not tally.kept:
        raise ConfigError(f"{source} has no picture for {pictures.name}: {tally.reasons()}")
    _tell_if_unlike(pictures, source, position)
    tally.write(folders.out, position)


def _tell_if_unlike(pictures: PictureSet, source: Path, found: int) -> None:
    """Warn where there are many more or fewer pictures than the set has."""
    expected = pictures.pictures or found
    if abs(found - expected) > UNLIKE * expected:
        told = "%s: %s, where about %d are expected; is %s whole?"
        logging.getLogger(__name__).warning(told, pictures.name, counted(found, "picture"), expected, source)


def _packed(pictures: PictureSet, source: Path) -> Iterator[ArchivePicture]:
    if not source.is_dir():
        yield from pictures_in(source, pictures.inside, MAX_BYTES, Limits())
        return
    for path in picture_files(source):
        readable = is_readable(path)
        wanted = readable and path.stat().st_size <= MAX_BYTES
        name = path.relative_to(source).as_posix()
        yield ArchivePicture(name=name, data=path.read_bytes() if wanted else None, is_readable=readable)


def picture_files(folder: Path) -> list[Path]:
    """The picture files below `folder`, and below folders that links there lead to, in the order of their paths."""
    return sorted(_pictures_below(folder, frozenset()), key=lambda path: path.relative_to(folder).as_posix())


def _pictures_below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """As `picture_files`, in any order; a link back to one of the folders `above` is not followed."""
    status = folder.stat()
    this = status.st_dev, status.st_ino
    if this in above:
        return
    try:
        inside = list(folder.iterdir())
    except PermissionError:  # such as lost+found, at the top of a disk
        return
    for path in inside:
        if path.is_dir():
            yield from _pictures_below(path, above | {this})
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def is_readable(path: Path) -> bool:
    """Whether the user may read the file; where not, it is left out, and the set another when that is mended."""
    return os.access(path, os.R_OK)


def spelled(name: str) -> str:
    """A file's name as texts and tables can hold it: bytes that are no UTF-8 stand as `\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _added(packed: ArchivePicture, tars: "_Tars", seen: Collection[str]) -> PictureRow:
    """The row of one file, whose bytes are in the tars if it is a picture, and the first of its name."""
    from tasks.screening.pictures import PictureError, decoded

    if spelled(packed.name) != packed.name:
        return _left_out(spelled(packed.name), "name_not_utf8", "rename it, as the records call it")
    if packed.name in seen:
        return _left_out(packed.name, "repeated_name", "")
    if not packed.is_readable:
        return _left_out(packed.name, "not_readable", "you may not read the file; chmod a+r helps")
    if packed.data is None:
        return _left_out(packed.name, "too_large", f"over {MAX_BYTES} bytes")
    try:
        picture = decoded(packed.data, MAX_BYTES)
    except PictureError as error:
        return _left_out(packed.name, error.reason, error.detail)
    tar, offset = tars.add(packed.name, packed.data)
    width, height = picture.image.size
    return PictureRow(
        name=packed.name,
        fate=KEPT,
        detail="",
        tar=tar,
        offset=offset,
        size=len(packed.data),
        sha256=sha256(packed.data).hexdigest(),
        width=width,
        height=height,
    )


def _left_out(name: str, fate: str, detail: str) -> PictureRow:
    return PictureRow(
        name=name, fate=fate, detail=detail, tar=None, offset=None, size=None, sha256=None, width=None, height=None
    )


class _Tars:
    """Writes pictures into tars of about `TAR_BYTES`, times and owners zeroed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.tar: tarfile.TarFile | None = None

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Add a picture; the number of its tar, and where in it the bytes begin."""
        if self.tar is None or self.tar.offset > TAR_BYTES:
            self.close()
            self.tar = tarfile.open(self.folder / tar_name(self.count), "w", format=tarfile.PAX_FORMAT)
            self.count += 1
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self.tar.addfile(member, io.BytesIO(data))
        return self.count - 1, self.tar.offset - _padded(len(data))

    def close(self) -> None:
        """End the tar that is being written."""
        if self.tar is not None:
            self.tar.close()

    def __enter__(self) -> "_Tars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tar_name(number: int) -> str:
    """What the tar of that number is called."""
    return f"{number:05d}.tar"


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def gather(settings: Fetch, table: Path, sets: Mapping[str, Path], folders: StepFolders, progress: Progress) -> None:
    """The rows of `table` as shards of texts, and where in the sets the picture of each lies.

    Args:
        sets: set name -> its **pictures** artifact, in the order in which they are looked into; none for text alone.

    Raises:
        ConfigError: nothing is left.
    """
    import numpy as np

    from tinygptv_core.shards import write_index

    clear(folders.out)
    tally, total = Tally(), num_rows(table / ROWS_FILE)
    gallery, missing = _Gallery(sets), ""
    places = array("q")  # of each kept sample: the number of its picture's tar (-1: none), its offset, its size
    with ShardWriter(folders.out, settings.samples_per_shard) as writer:
        for position, row in enumerate(read_table(table / ROWS_FILE, TableRow)):
            if position % (20 * TOLD_EVERY) == 0:
                progress(position, total, "finding pictures")
            picture, outcome = gallery.find(row, settings.max_bytes)
            missing = missing or (outcome.detail if outcome.fate == MISSING else "")
            writer.write(row, outcome, None)
            tally.count(outcome.fate)
            if outcome.fate == KEPT:
                places.extend(gallery.place(picture) if picture else (-1, 0, 0))
    columns = np.array(places, dtype=np.int64).reshape(-1, 3)
    write_index(columns, ("image_shard", "image", "image_bytes"), folders.out / PLACES_FILE)
    (folders.out / TARS_FILE).write_text(json.dumps(gallery.tars, indent=1) + "\n")
    tally.write(folders.out, total, f". {gallery.compared(missing)}" if missing and not tally.kept else "")


class _Gallery:
    """All pictures of several sets, by name; of a name that more than one set has, the first one's."""

    def __init__(self, sets: Mapping[str, Path]) -> None:
        self.names = tuple(sets)
        self.tars = [f"{name}/{tar.name}" for name, folder in sets.items() for tar in sorted(folder.glob("*.tar"))]
        numbers = {name: number for number, name in enumerate(self.tars)}
        self.rows: dict[str, PictureRow] = {}
        self.first_tar: dict[str, int] = {}
        for name, folder in sets.items():
            first = numbers.get(f"{name}/{tar_name(0)}", 0)
            for row in read_table(folder / PICTURES_FILE, PictureRow):
                if row.fate != "repeated_name" and row.name not in self.rows:
                    self.rows[row.name], self.first_tar[row.name] = row, first

    def find(self, row: TableRow, max_bytes: int) -> tuple[PictureRow | None, Outcome]:
        """The picture of a row, and what becomes of the row."""
        if row.file is None:
            return None, Outcome(fate=KEPT, detail="")
        picture = self.rows.get(row.file)
        if picture is None:
            return None, Outcome(fate=MISSING, detail=f"there is no {row.file} in {', '.join(self.names)}")
        if picture.fate != KEPT:
            return None, Outcome(fate=picture.fate, detail=picture.detail)
        if (picture.size or 0) > max_bytes:
            return None, Outcome(fate="too_large", detail=f"over {max_bytes} bytes")
        return picture, Outcome(fate=KEPT, detail="", sha256=picture.sha256, width=picture.width, height=picture.height)

    def compared(self, missing: str) -> str:
        """What is said of a missing picture, beside one that is there: a folder too deep or too high shows."""
        there = next((f", where one is called {name}" for name in self.rows), "")
        return f"The first: {missing}{there}"

    def place(self, picture: PictureRow) -> tuple[int, int, int]:
        """The number of its tar among those of all sets, where it begins, and its size."""
        assert picture.tar is not None and picture.offset is not None and picture.size is not None
        return self.first_tar[picture.name] + picture.tar, picture.offset, picture.size
