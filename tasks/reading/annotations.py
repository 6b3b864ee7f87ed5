"""The records of a recipe's annotation files, whatever form these have, each with its partners in other files."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tasks.reading.json_arrays import Malformed
from tasks.reading.lists import read_list
from tasks.reading.pickles import read_plain_pickle
from tinygptv_core.annotations import partners_in, records_in, with_partners
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe, Row, UnfitError

T = TypeVar("T")

MAX_BYTES = 1 << 31
"""A file that is no list is read as a whole."""


def records(recipe: Recipe, source: Path, joined: Mapping[str, Path]) -> Iterator[object]:
    """Every record of the data set, in its source's order; `Malformed` or `Unjoined` for one that is none.

    Args:
        joined: the files that the recipe joins to its source, by the paths that it calls them.

    Raises:
        ConfigError: a file cannot be read to its end, or does not have the layout that the recipe says.
    """
    partners = {
        join.column: _reading(joined[join.file], lambda parsed, join=join: partners_in(parsed, join))
        for join in recipe.layout.joins
    }
    for record in _source(recipe, source):
        yield _joined(recipe, record, partners) if partners else record


class Unjoined:
    """A record without its partner, or one that can have none, and the error that says so."""

    def __init__(self, error: KeyError | TypeError | UnfitError) -> None:
        self.error = error


def _joined(
    recipe: Recipe, record: object, partners: Mapping[str, Mapping[object, object]]
) -> Row | Malformed | Unjoined:
    if isinstance(record, Malformed):
        return record
    try:
        return with_partners(record, recipe.layout.joins, partners)
    except (KeyError, TypeError, UnfitError) as error:
        return Unjoined(error)


def is_list(recipe: Recipe, path: Path) -> bool:
    """Whether the file is read as a list of records, whatever form that has."""
    return recipe.layout.is_list and path.suffix != ".p"


def _source(recipe: Recipe, path: Path) -> Iterator[object]:
    if is_list(recipe, path):
        yield from read_list(path)
    else:
        yield from _reading(path, lambda parsed: list(records_in(parsed, recipe.layout)))


def _reading(path: Path, read: Callable[[object], T]) -> T:
    """What `read` makes of the whole file.

    Raises:
        ConfigError: it does not have that layout.
    """
    try:
        return read(read_plain_pickle(path) if path.suffix == ".p" else _json(path))
    except KeyError as error:
        raise ConfigError(f"{path} has no column {error}, or one of its records has not; it is another file") from None
    except TypeError as error:
        raise ConfigError(f"{path} does not have the form of the published file: {error}") from None


def _json(path: Path) -> object:
    """A JSON file as a whole.

    Raises:
        ConfigError: it is missing, too large, or no JSON.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes, over {MAX_BYTES}; it is not what was published")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON, or cut off: {error}") from None
