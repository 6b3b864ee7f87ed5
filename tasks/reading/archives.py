"""Read the pictures in a zip or tar, one after another, without unpacking it anywhere.

What an archive says of itself is not believed: names, sizes and numbers are checked against limits.
"""

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from tinygptv_core.plain import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""What a picture's file may be called; what else lies beside the pictures is no business of ours."""

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
"""What the readers of archives and the decompressors raise for damage, beside an OSError without a number."""
BAD_HEADERS = (
    tarfile.EmptyHeaderError,  # pyright: ignore[reportAttributeAccessIssue] -- the stubs lack it, as the next two
    tarfile.TruncatedHeaderError,  # pyright: ignore[reportAttributeAccessIssue]
    tarfile.InvalidHeaderError,  # pyright: ignore[reportAttributeAccessIssue]
)
READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may be.

    Attributes:
        members: how many it may have, of any kind.
        total_bytes: of what is read of it, unpacked.
        ratio: how many times larger than what is stored of it a member, or a tar, may be: pictures hardly compress.
    """

    members: int = 2_000_000
    total_bytes: int = 1 << 38
    ratio: int = 200


@dataclass(frozen=True, kw_only=True)
class ArchivePicture:
    """One picture of an archive: its path below the folder that is asked for, and its bytes.

    Attributes:
        data: None where they are too many, or where they may not be read.
    """

    name: str
    data: bytes | None
    is_readable: bool = True


class _DamageError(tarfile.TarError):
    """A tar that goes on where it may not, or does not where it must."""


def pictures_in(path: Path, inside: str, max_bytes: int, limits: Limits) -> Iterator[ArchivePicture]:
    """The pictures below the folder `inside` of the archive: of a zip in the order of their paths, of a tar in its own.

    Args:
        max_bytes: of one picture; of a larger one nothing is read.

    Raises:
        ConfigError: it is no zip or tar, is damaged, or is one that nobody publishes: it has names that lead out of
            it, links or devices for pictures, or is a bomb.
    """
    count = _Count(path, limits)
    try:
        packed = _from_zip if zipfile.is_zipfile(path) else _from_tar
        yield from packed(path, inside, max_bytes, count)
    except DAMAGE as error:
        raise ConfigError(f"{path} cannot be read as a zip or tar{count.place}: {error}. Get it again") from None
    except RuntimeError as error:  # zipfile's word for a password
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        # What is no error of the system's is a decompressor's word for damage.
        raise ConfigError(f"{path} cannot be read as a zip or tar{count.place}: {error}. Get it again") from None


def _from_zip(path: Path, inside: str, max_bytes: int, count: "_Count") -> Iterator[ArchivePicture]:
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        for member in members:
            count.add(member.filename)
        for member in members:
            count.name = member.filename
            name = _below(member.filename, inside)
            if name is None or member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ConfigError(f"{path} is refused: {member.filename} is a link or a device, not a picture")
            if member.file_size > max(member.compress_size, 1) * count.limits.ratio:
                raise ConfigError(
                    f"{path} is refused as a bomb: {member.filename} has {member.file_size} bytes "
                    f"in {member.compress_size}, over {count.limits.ratio} to 1"
                )
            if member.file_size > max_bytes:
                yield ArchivePicture(name=name, data=None)
                continue
            with archive.open(member) as file:
                data = file.read(max_bytes + 1)
            count.add_bytes(len(data))
            yield ArchivePicture(name=name, data=data)


def _from_tar(path: Path, inside: str, max_bytes: int, count: "_Count") -> Iterator[ArchivePicture]:
    with _unpacked(path) as file, tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive:
        for member in archive:
            count.add(member.name)
            count.add_bytes(member.size)  # what is passed over is unpacked, too
            name = _below(member.name, inside)
            if name is None or member.isdir():
                continue
            if not member.isreg():
                raise ConfigError(f"{path} is refused: {member.name} is a link or a device, not a picture")
            if member.size > max_bytes:
                yield ArchivePicture(name=name, data=None)
                continue
            data = archive.extractfile(member)
            assert data is not None, "a plain file has bytes"
            yield ArchivePicture(name=name, data=data.read())
        _read_end(archive, count)


def _unpacked(path: Path) -> IO[bytes]:
    """The tar at `path`, decompressed: all parts of it, each checked to its end."""
    with path.open("rb") as file:
        begin = file.read(10)
    if begin.startswith(b"\x1f\x8b\x08"):
        return cast(IO[bytes], gzip.open(path))
    if begin.startswith(b"BZh") and begin[4:] == b"1AY&SY":
        return cast(IO[bytes], bz2.open(path))
    if begin.startswith((b"\x5d\x00\x00\x80", b"\xfd7zXZ")):
        return cast(IO[bytes], lzma.open(path))
    return path.open("rb")


def _read_end(archive: tarfile.TarFile, count: "_Count") -> None:
    """Read on, from the block of zeros that ends a tar: what was packed is checked where it ends.

    Raises:
        _DamageError: what follows that block is neither another one nor the end.
    """
    rest = cast(IO[bytes], archive.fileobj)
    if any(rest.read(tarfile.BLOCKSIZE)):
        raise _DamageError(f"zeros lie at byte {archive.offset} where a member should begin")
    while passed := rest.read(READ_BYTES):
        count.add_bytes(len(passed))


class _Member(tarfile.TarInfo):
    """A member of a tar. Where its header is damaged, cut off or missing tarfile would say that the tar ends."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """The member whose header comes next.

        Raises:
            _DamageError: there is none that can be read, and the tar does not end.
        """
        try:
            return super().fromtarfile(tarfile)
        except BAD_HEADERS as error:
            raise _DamageError(f"no header of a member at byte {tarfile.offset} of the tar, {error}") from None


class _Count:
    """Counts what an archive holds, and refuses it beyond the limits."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits, self.members, self.bytes, self.name = path, limits, 0, 0, ""
        self.most_bytes = min(limits.total_bytes, limits.ratio * path.stat().st_size)

    def add(self, name: str) -> None:
        """One more member."""
        self.members, self.name = self.members + 1, name
        if self.members > self.limits.members:
            raise ConfigError(f"{self.path} is refused: it has more than {self.limits.members} members")
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or "\0" in name:
            raise ConfigError(f"{self.path} is refused: {name!r} leads out of it")

    @property
    def place(self) -> str:
        """About where it is read, in words."""
        return f" at {self.name} or after it" if self.name else ""

    def add_bytes(self, count: int) -> None:
        """So many more bytes."""
        self.bytes += count
        if self.bytes > self.most_bytes:
            raise ConfigError(f"{self.path} is refused as a bomb: it unpacks to over {self.most_bytes} bytes")


def _below(name: str, inside: str) -> str | None:
    """The path below `inside`, for a picture that lies there."""
    path, folder = PurePosixPath(name), PurePosixPath(inside)
    if path.suffix.lower() not in SUFFIXES or not path.is_relative_to(folder):
        return None
    return path.relative_to(folder).as_posix()
