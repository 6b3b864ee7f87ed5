"""What a user brings: annotation files and pictures below one folder, found, checked, or told how to get.

What they hold bears on what is made of them, where they lie does not. Nothing is hashed twice that nobody has touched.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from tasks.picture_sets import UNLIKE, is_readable, picture_files, spelled
from tasks.sealed import USERS_FOLDER
from tasks.stamps import FOLDER_STAMPS, hashed_once, remembered_digest
from tinygptv_core.artifact import Artifact, sha256_of_file
from tinygptv_core.plain import ConfigError, sha256_of
from tinygptv_core.recipe import Download, PictureSet

ROUNDED_BYTES = 500_000
"""Half of the unit in which sizes are expected."""
NOT_READABLE = "not readable"
"""Stands where there would be the SHA-256 of a picture that may not be read."""
NO_FOLDER = "  name that folder with --data DIR, or set TINYGPTV_DATA"


def brought_file(data: Path | None, file: Download, stamps: Path) -> Artifact:
    """A file that a user got, as an input.

    Args:
        data: the folder that `--data` names; None where it names none.
        stamps: a folder that remembers the SHA-256 of files.

    Raises:
        ConfigError: it is not there, or not the file that was published.
    """
    path = _below(data, file.path)
    if path is None or not path.is_file():
        raise ConfigError(f"there is no {_place(path, file.path)}.\n{_how(file)}{_where(data)}")
    artifact = Artifact(kind="file", digest=remembered_digest(path, stamps), path=path)
    if file.sha256 not in (None, artifact.digest):
        raise ConfigError(
            f"{path} is not the file that was published: its SHA-256 is {artifact.digest}, "
            f"not {file.sha256}.\n{_how(file)}"
        )
    return artifact


def brought_pictures(data: Path | None, pictures: PictureSet, stamps: Path) -> Artifact:
    """A set's folder or archive, as an input.

    Raises:
        ConfigError: neither is there, or the archive is not the one that was published.
    """
    folder = _below(data, pictures.folder)
    if folder is not None and folder.is_dir():
        return Artifact(kind=USERS_FOLDER, digest=_folder_digest(folder, stamps), path=folder)
    if pictures.archive is not None:
        archive = _below(data, pictures.archive.path)
        if archive is not None and archive.is_file():
            return brought_file(data, pictures.archive, stamps)
        what = f"neither {_place(folder, pictures.folder)}/ nor {_place(archive, pictures.archive.path)}"
        raise ConfigError(f"there is {what}: the archive may stay packed.\n{_how(pictures.archive)}{_where(data)}")
    raise ConfigError(f"there is no folder {_place(folder, pictures.folder)} of pictures.{_where(data)}")


def warn_of_size(file: Download, path: Path) -> None:
    """Warn where `path`, which a user brought for `file`, weighs far more or less than what was published."""
    size = path.stat().st_size
    if file.megabytes is not None and abs(size - file.megabytes * 1e6) > UNLIKE * file.megabytes * 1e6 + ROUNDED_BYTES:
        logging.getLogger(__name__).warning(
            "%s has %d bytes, where about %s are expected; is it whole?", path, size, _weight(file.megabytes)
        )


def _below(data: Path | None, path: str) -> Path | None:
    return None if data is None else data / path


def _place(path: Path | None, name: str) -> str:
    return str(path) if path is not None else name


def _how(file: Download) -> str:
    """What to download, from where, into which folder, and what it should weigh."""
    weighs = "" if file.megabytes is None else f" (about {_weight(file.megabytes)})"
    lines = [f"  to get it{weighs}  {file.url}", f"  put it at  {file.path}, below the folder of --data"]
    return "\n".join([*lines, f"  and  {file.note}"] if file.note else lines)


def _weight(megabytes: int) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes} MB"


def _where(data: Path | None) -> str:
    return "" if data else f"\n{NO_FOLDER}"


def _folder_digest(folder: Path, stamps: Path) -> str:
    """What the pictures of a folder are: the SHA-256 of their paths and of the SHA-256 of each that may be read.

    Remembered while no file's path, size or time is another, nor which may be read. Listing a hundred thousand takes a
    second, hashing them the time it takes to read them.
    """
    files = picture_files(folder)
    listed = sha256_of([_listed(folder, path) for path in files])
    return hashed_once(stamps / FOLDER_STAMPS, folder, [listed], lambda: _content(folder, files))


def _listed(folder: Path, path: Path) -> list[str | int]:
    status = path.stat()
    listed = [spelled(path.relative_to(folder).as_posix()), status.st_size, status.st_mtime_ns]
    return listed if is_readable(path) else [*listed, NOT_READABLE]


def _content(folder: Path, files: Sequence[Path]) -> str:
    digests = (sha256_of_file(path) if is_readable(path) else NOT_READABLE for path in files)
    names = (spelled(path.relative_to(folder).as_posix()) for path in files)
    return sha256_of([[name, digest] for name, digest in zip(names, digests, strict=True)])
