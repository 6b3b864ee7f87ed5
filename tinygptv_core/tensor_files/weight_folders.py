"""Which files a source of weights consists of: one file, or a folder as Hugging Face lays it out. Reads no tensor."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tinygptv_core.plain import ConfigError

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
UNTRAINED_NORMS = "untrained.safetensors"
TOLD = ("config.json", "tokenizer.json", "tokenizer_config.json", "backbones.json", "stage.json", UNTRAINED_NORMS)
"""What is read of a folder beside its tensors, where it is there."""


def files_of(source: Path) -> dict[str, Path]:
    """Every file that is read of `source`, by its name.

    Raises:
        ConfigError: there is no such file or folder, or a folder that lacks what it needs.
    """
    if source.is_dir():
        return {path.name: path for path in (*_told_files(source), *tensor_files(source))}
    return {path.name: path for path in tensor_files(source)}


def _told_files(folder: Path) -> list[Path]:
    return [folder / name for name in TOLD if (folder / name).is_file()]


def tensor_files(source: Path) -> tuple[Path, ...]:
    """The files that hold its tensors: itself, or a folder's `model.safetensors`, its shards, or the same as `.bin`.

    Raises:
        ConfigError: as `files_of`.
    """
    if source.is_file():
        if source.suffix not in (SAFETENSORS, *PICKLES):
            raise ConfigError(
                f"{source} is no file of weights: its name must end in {', '.join((SAFETENSORS, *PICKLES))}"
            )
        return (source,)
    if not source.is_dir():
        what = f"{source} is neither a file nor a folder" if source.exists() else f"there is no file or folder {source}"
        raise ConfigError(what)
    index = next((source / name for name in INDEXES if (source / name).is_file()), None)
    if index is not None:
        return _shards(index)
    whole = next((source / name for name in WHOLE if (source / name).is_file()), None)
    if whole is None:
        raise ConfigError(
            f"the folder {source} holds no weights: there is none of {', '.join((*INDEXES, *WHOLE))}.\n"
            "  name the folder that these lie in, or the file itself"
        )
    return (whole,)


def _shards(index: Path) -> tuple[Path, ...]:
    told = read_json(index)
    places = told.get("weight_map") if isinstance(told, Mapping) else None
    if not isinstance(places, Mapping) or not places:
        raise ConfigError(f"{index} has no weight_map, which says in which file each tensor lies")
    names = sorted({str(name) for name in places.values()})
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise ConfigError(
            f"{index} names {strange[0]}, which is not beside it; shards lie in the folder of their index"
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ConfigError(
            f"{index} names {len(names)} files, of which {len(missing)} are not there: {', '.join(missing[:3])}.\n"
            "  fetch them into that folder; a download may have been cut short"
        )
    return tuple(index.parent / name for name in names)


def read_json(path: Path) -> object:
    """What a JSON file says.

    Raises:
        ConfigError: it is missing, may not be read, is no JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON, or it is cut off: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply to be what it should.\n  fetch it again") from None


def check_pins(files: Mapping[str, Path], pins: Mapping[str, str], digest_of: Callable[[Path], str]) -> None:
    """Compare files with the SHA-256 that is pinned for them.

    Args:
        digest_of: a file's SHA-256 in hex.

    Raises:
        ConfigError: one is another, or is not there; says both digests.
    """
    for name, wanted in sorted(pins.items()):
        if name not in files:
            raise ConfigError(f"a SHA-256 is pinned for {name}, but there is {', '.join(sorted(files))}")
        found = digest_of(files[name])
        if found != wanted.lower():
            raise ConfigError(
                f"{files[name]} is not the file that is pinned\n  found   {found}\n  wanted  {wanted}\n"
                "  fetch it again, or change the pin if another file is meant"
            )
