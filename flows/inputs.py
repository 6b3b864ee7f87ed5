"""What steps that read data sets have as inputs: shards, indexes, and the sets of pictures that these are about."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from flows.recipes import recipe
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import PictureSet
from tinygptv_core.run import DataFolders

KINDS = {"shards": "fetch", "index": "screen"}
"""What is read of a data set, and the step of the data set that makes it."""
SET = "pictures."
"""How the input begins that is a set of pictures."""


def picture_sets(names: Iterable[str]) -> dict[str, PictureSet]:
    """The picture sets that these data sets are about, by name.

    Raises:
        ConfigError: two of them mean different ones by a name.
    """
    found: dict[str, PictureSet] = {}
    for name in names:
        for pictures in recipe(name).picture_sets:
            if (other := found.setdefault(pictures.name, pictures)) != pictures:
                where = f"in {pictures.folder}, another recipe has those of that name in {other.folder}"
                raise ConfigError(
                    f"data_recipes/{name}.py has the pictures {pictures.name} {where}: name one otherwise"
                )
    return found


def pictures_name(pictures: PictureSet) -> str:
    """The name of the step that keeps a set."""
    return f"{pictures.name}/pictures"


def set_inputs(names: Iterable[str]) -> dict[str, str]:
    """The picture sets that these data sets are about, as inputs."""
    return {f"{SET}{key}": pictures_name(pictures) for key, pictures in picture_sets(names).items()}


def sets_in(inputs: Mapping[str, Artifact]) -> dict[str, Path]:
    """The folders of the picture sets among `inputs`, by name."""
    return {name.removeprefix(SET): item.path for name, item in inputs.items() if name.startswith(SET)}


def data_inputs(names: Iterable[str]) -> dict[str, str]:
    """The inputs that reading these data sets takes: of each its shards and its index, and the sets of pictures."""
    names = tuple(names)
    return {f"{kind}.{name}": f"{name}/{step}" for name in names for kind, step in KINDS.items()} | set_inputs(names)


def data_folders(inputs: Mapping[str, Artifact]) -> dict[str, DataFolders]:
    """The folders of the data sets among `inputs`."""
    names = [name.removeprefix("shards.") for name in inputs if name.startswith("shards.")]
    sets = sets_in(inputs)
    return {
        name: DataFolders(
            shards=inputs[f"shards.{name}"].path,
            index=inputs[f"index.{name}"].path,
            pictures={pictures.name: sets[pictures.name] for pictures in recipe(name).picture_sets},
        )
        for name in names
    }
