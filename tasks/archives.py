"""Read the pictures in a zip or tar, one after another, without unpacking it anywhere.

What an archive says of itself is not believed: names, sizes and numbers are checked against limits.
"""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tinygptv_core.plain import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""What a picture's file may be called; what else lies beside the pictures is no business of ours."""


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
class Packed:
    """One picture of an archive: its path below the folder that is asked for, and its bytes, or None if too many."""

    name: str
    data: bytes | None


def pictures_in(path: Path, inside: str, max_bytes: int, limits: Limits) -> Iterator[Packed]:
    """The pictures below the folder `inside` of the archive: of a zip in the order of their paths, of a tar in its own.

    Args:
        max_bytes: of one picture; of a larger one nothing is read.

    Raises:
        ConfigError: it is no zip or tar, is damaged, or is one that nobody publishes: it has names that lead out of
            it, links or devices for pictures, or is a bomb.
    """
    try:
        packed = _from_zip if zipfile.is_zipfile(path) else _from_tar
        yield from packed(path, inside, max_bytes, limits)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise ConfigError(f"{path} cannot be read as a zip or tar: {error}. Get it again") from None
    except RuntimeError as error:  # zipfile's word for a password
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _from_zip(path: Path, inside: str, max_bytes: int, limits: Limits) -> Iterator[Packed]:
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        count = _Count(path, limits)
        for member in members:
            count.add(member.filename)
        for member in members:
            name = _below(member.filename, inside)
            if name is None or member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ConfigError(f"{path} is refused: {member.filename} is a link or a device, not a picture")
            if member.file_size > max(member.compress_size, 1) * limits.ratio:
                raise ConfigError(
                    f"{path} is refused as a bomb: {member.filename} has {member.file_size} bytes "
                    f"in {member.compress_size}, over {limits.ratio} to 1"
                )
            if member.file_size > max_bytes:
                yield Packed(name=name, data=None)
                continue
            with archive.open(member) as file:
                data = file.read(max_bytes + 1)
            count.add_bytes(len(data))
            yield Packed(name=name, data=data)


def _from_tar(path: Path, inside: str, max_bytes: int, limits: Limits) -> Iterator[Packed]:
    with tarfile.open(path, "r|*") as archive:
        count = _Count(path, limits)
        for member in archive:
            count.add(member.name)
            count.add_bytes(member.size)  # what is passed over is unpacked, too
            name = _below(member.name, inside)
            if name is None or member.isdir():
                continue
            if not member.isreg():
                raise ConfigError(f"{path} is refused: {member.name} is a link or a device, not a picture")
            if member.size > max_bytes:
                yield Packed(name=name, data=None)
                continue
            file = archive.extractfile(member)
            assert file is not None, "a plain file has bytes"
            yield Packed(name=name, data=file.read())


class _Count:
    """Counts what an archive holds, and refuses it beyond the limits."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits, self.members, self.bytes = path, limits, 0, 0
        self.most_bytes = min(limits.total_bytes, limits.ratio * path.stat().st_size)

    def add(self, name: str) -> None:
        """One more member."""
        self.members += 1
        if self.members > self.limits.members:
            raise ConfigError(f"{self.path} is refused: it has more than {self.limits.members} members")
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or "\0" in name:
            raise ConfigError(f"{self.path} is refused: {name!r} leads out of it")

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
