"""A list of records becomes a table: a row per sample, and a drop with its reason for each record that is none."""

import json
from collections.abc import Mapping
from pathlib import Path

from tasks.build import Site, Step
from tasks.lists import Broken, read_list
from tasks.tables import DROPPED_FILE, ROWS_FILE, Drop, TableRow, TableWriter, Tally, clear
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe, text_of

ROWS = Step(name="rows", kind="table", version=1)

# How many records are looked at to say which columns a list has that no sample can be made of.
COLUMNS_FROM_RECORDS = 100


def rows(recipe: Recipe, name: str, list_file: Path, site: Site) -> None:
    """The list at `list_file` as a table, in its order. A row's key is its record's position in the list.

    Raises:
        ConfigError: the list cannot be read to its end, or no record has the form of data set `name`.
    """
    clear(site.out)
    position, tally = 0, Tally()
    with (
        TableWriter(site.out / ROWS_FILE, TableRow) as kept,
        TableWriter(site.out / DROPPED_FILE, Drop) as dropped,
    ):
        for position, record in enumerate(read_list(list_file), start=1):
            row = row_of(recipe, position - 1, record)
            if isinstance(row, TableRow):
                kept.write(row)
                tally.kept += 1
            else:
                dropped.write(row)
                tally.dropped[row.reason] += 1
    if not tally.kept:
        raise ConfigError(f"{list_file}: no record of {position} has the form of {name}: {tally.reasons()}")
    tally.write(site.out, position)


def row_of(recipe: Recipe, position: int, record: object) -> TableRow | Drop:
    """The table's row of one record, or why there is none."""
    key, url = f"{position:09d}", None
    try:
        fields = _fields(record)
        picture = text_of(fields, recipe.picture).strip() if recipe.picture else None
        if picture == "":
            raise ValueError(f"{recipe.picture} is empty")
        url, file = (picture, None) if recipe.how == "url" else (None, picture)
        turns = _turns(recipe, fields)
        (picture or "").encode()  # half a surrogate pair is no text, and nothing after this step could write it
        split, group = (str(fields[column]) if column else None for column in (recipe.split, recipe.group))
    except (KeyError, TypeError, ValueError) as error:
        said = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        return Drop(key=key, url=_encodable(url), reason="broken_record", detail=_encodable(said) or "")
    return TableRow(key=key, url=url, file=file, turns=turns, split=split, group=group)


def _fields(record: object) -> Mapping[str, object]:
    if isinstance(record, Broken):
        raise ValueError(record.detail)
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
    text = json.dumps([[turn.role, turn.text] for turn in turns], ensure_ascii=False)
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
        row = row_of(recipe, position, record)
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
