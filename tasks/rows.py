"""A list of records becomes a table: a row per sample, and a drop with its reason for each record that is none."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.annotations import Unjoined, records
from tasks.build import Site, Step
from tasks.lists import Broken, read_list
from tasks.tables import DROPPED_FILE, ROWS_FILE, Drop, TableRow, TableWriter, Tally, clear
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe, Row, UnfitError, picture_of, samples_of

ROWS = Step(name="rows", kind="table", version=1)

# How many records are looked at to say which columns a list has that no sample can be made of.
COLUMNS_FROM_RECORDS = 100

# Fewer rows than this share of what a recipe expects are told: a file that was cut is still a file.
EXPECTED_SHARE = 0.95

UNREADABLE = (KeyError, TypeError, ValueError)


NO_FILES: Mapping[str, Path] = {}


def rows(recipe: Recipe, name: str, list_file: Path, site: Site, joined: Mapping[str, Path] = NO_FILES) -> None:
    """The data set as a table, in its source's order: a row for each sample of each record.

    A row's key is its position. A record of which no sample can be made is one row, and dropped.

    Args:
        joined: the files that the recipe joins to its source, by the paths that it calls them.

    Raises:
        ConfigError: a file cannot be read to its end, or no record has the form of data set `name`.
    """
    clear(site.out)
    position, tally = 0, Tally()
    with (
        TableWriter(site.out / ROWS_FILE, TableRow) as kept,
        TableWriter(site.out / DROPPED_FILE, Drop) as dropped,
    ):
        for record in records(recipe, list_file, joined):
            for row in rows_of(recipe, position, record):
                position += 1
                if isinstance(row, TableRow):
                    kept.write(row)
                    tally.kept += 1
                else:
                    dropped.write(row)
                    tally.dropped[row.reason] += 1
    if not tally.kept:
        raise ConfigError(f"{list_file}: no record of {position} has the form of {name}: {tally.reasons()}")
    if position < EXPECTED_SHARE * (recipe.expected_rows or 0):
        logging.getLogger(__name__).warning(
            "%s: %d rows, where about %d are expected; is its file whole?", name, position, recipe.expected_rows
        )
    tally.write(site.out, position)


def rows_of(recipe: Recipe, position: int, record: object) -> Iterator[TableRow | Drop]:
    """The table's rows of one record, the first of them with the key of `position`; or why there is none."""
    try:
        samples = samples_of(recipe, _fields(record))
    except UNREADABLE as error:
        yield _drop(position, None, error)
        return
    for place, sample in enumerate(samples):
        yield _row_of(recipe, position + place, sample)


def _row_of(recipe: Recipe, position: int, sample: Row) -> TableRow | Drop:
    url = None
    try:
        picture = picture_of(recipe, sample)
        url, file = (picture, None) if recipe.how == "url" else (None, picture)
        turns = _turns(recipe, sample)
        (picture or "").encode()  # half a surrogate pair is no text, and nothing after this step could write it
        split, group = (str(sample[column]) if column else None for column in (recipe.split, recipe.group))
    except UNREADABLE as error:
        return _drop(position, url, error)
    return TableRow(key=_key(position), url=url, file=file, turns=turns, split=split, group=group)


def _key(position: int) -> str:
    return f"{position:09d}"


def _drop(position: int, url: str | None, error: Exception) -> Drop:
    said = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    reason = error.reason if isinstance(error, UnfitError) else "broken_record"
    return Drop(key=_key(position), url=_encodable(url), reason=reason, detail=_encodable(said) or "")


def _fields(record: object) -> Row:
    if isinstance(record, Broken):
        raise ValueError(record.detail)
    if isinstance(record, Unjoined):
        raise record.error
    if not isinstance(record, Mapping):
        raise TypeError(f"a record is an object, not {type(record).__name__}")
    return record


def _turns(recipe: Recipe, record: Mapping[str, object]) -> str:
    """What is said about the record, as JSON.

    Raises:
        KeyError, TypeError, ValueError: the record does not have the data set's form.
    """
    turns = recipe.turns(record)
    if not turns:
        raise ValueError("nothing is said in it")
    text = json.dumps([[turn.role, *turn.texts] for turn in turns], ensure_ascii=False)
    text.encode()
    return text


def _encodable(text: str | None) -> str | None:
    return None if text is None else text.encode(errors="backslashreplace").decode()


def check_list(path: Path, recipe: Recipe) -> int:
    """The number of records of a user's list, read once from end to end so that a run can refuse it at once.

    Raises:
        ConfigError: the list is missing, no file, empty, cut off, no list, of no known format, or no record of
            it has the form of `recipe`; says what was found and which columns there are.
    """
    records, example, columns = 0, None, dict[str, None]()
    for position, record in enumerate(read_list(path)):
        records = position + 1
        if isinstance(example, TableRow):
            continue  # one good record is enough; the rest is read for the file's own sake
        row = next(rows_of(recipe, position, record))
        if isinstance(record, Mapping) and position < COLUMNS_FROM_RECORDS:
            columns |= dict.fromkeys(map(str, record))
        example = row if isinstance(row, TableRow) else example or row
    if example is None:
        raise ConfigError(f"{path} holds no record; a list holds at least one")
    if isinstance(example, Drop):
        raise ConfigError(_refusal(path, recipe, records, example, list(columns)))
    return records


def _refusal(path: Path, recipe: Recipe, records: int, example: Drop, columns: list[str]) -> str:
    found = f"Its columns are: {', '.join(columns) or 'none'}"
    missing = example.detail.removeprefix("there is no ").strip("'")
    if columns and recipe.picture and recipe.picture not in columns:
        return f"{path} has no column {recipe.picture}. {found}"
    if columns and example.detail == f"there is no {missing!r}":
        return f"{path} has no column {missing}. {found}"
    return f"{path}: none of its {records} records can be used. The first: {example.detail}. {found}"
