"""A list of records becomes a table: a row per sample, and a drop with its reason for each record that is none."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.build import Site, Step
from tasks.captions import captioned, is_captioned, side_of
from tasks.lists import Broken, read_list
from tasks.tables import (
    DROPPED_FILE,
    READ_ROWS,
    ROWS_FILE,
    SIZE,
    Drop,
    TableRow,
    TableWriter,
    Tally,
    clear,
    columns_of,
)
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe, text_of

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = Step(name="rows", kind="table", version=1)

# How many records are looked at to say which columns a list has that no sample can be made of.
COLUMNS_FROM_RECORDS = 100
# A longer list is not read to its end only to be checked; converting it tells the rest.
CHECKED_RECORDS = 2_000_000


def rows(recipe: Recipe, name: str, list_file: Path, site: Site) -> None:
    """`rows_of_lists` of one list."""
    rows_of_lists(recipe, name, (list_file,), site)


def rows_of_lists(recipe: Recipe, name: str, list_files: Sequence[Path], site: Site) -> None:
    """Lists, one after the other, as a table in their order. A row's key is its record's position in all of them.

    Where there are several, the detail of a drop says in which it was and where.

    Raises:
        ConfigError: a list cannot be read to its end, or no record has the form of data set `name`.
    """
    clear(site.out)
    position, tally = 0, Tally()
    with (
        TableWriter(site.out / ROWS_FILE, TableRow, SIZE if recipe.size else ()) as kept,
        TableWriter(site.out / DROPPED_FILE, Drop) as dropped,
    ):
        for list_file in list_files:
            records, begin = read_list(list_file), position
            while batch := list(islice(records, READ_ROWS)):
                table, drops = table_of(recipe, position, batch)
                kept.write_table(table)
                for drop in drops:
                    where = f"{list_file.name}, record {int(drop.key) - begin}: " if len(list_files) > 1 else ""
                    dropped.write(replace(drop, detail=where + drop.detail))
                position, tally.kept = position + len(batch), tally.kept + len(table)
                tally.dropped.update(drop.reason for drop in drops)
    if not tally.kept:
        lists = ", ".join(map(str, list_files))
        raise ConfigError(f"{lists}: no record of {position} has the form of {name}: {tally.reasons()}")
    tally.write(site.out, position)


def table_of(recipe: Recipe, first: int, records: Sequence[object]) -> tuple["pa.Table", list[Drop]]:
    """`row_of` each of `records`, the first of which is the list's record `first`: those that are rows, as a table."""
    import numpy as np
    import pyarrow as pa

    if not is_captioned(recipe):
        return _by_hand(recipe, first, records, range(len(records)))
    table, is_known = captioned(recipe, first, records)
    if is_known.all():
        return table, []
    others, drops = _by_hand(recipe, first, records, np.flatnonzero(~is_known).tolist())
    return pa.concat_tables([table.filter(pa.array(is_known)), others]).sort_by("key"), drops


def _by_hand(
    recipe: Recipe, first: int, records: Sequence[object], indexes: Sequence[int]
) -> tuple["pa.Table", list[Drop]]:
    """`row_of` those of `records` that `indexes` names."""
    made = [row_of(recipe, first + index, records[index]) for index in indexes]
    kept = [row for row in made if isinstance(row, TableRow)]
    return columns_of(kept, TableRow, SIZE), [row for row in made if isinstance(row, Drop)]


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
        width, height = (side_of(fields.get(column)) for column in recipe.size) if recipe.size else (None, None)
    except (KeyError, TypeError, ValueError) as error:
        said = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        return Drop(key=key, url=_encodable(url), reason="broken_record", detail=_encodable(said) or "")
    return TableRow(key=key, url=url, file=file, turns=turns, split=split, group=group, width=width, height=height)


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
    """How many records of a user's list were read, so that a run can refuse it at once: all, up to `CHECKED_RECORDS`.

    Raises:
        ConfigError: the list is missing, no file, empty, cut off, no list, of no known format, or no record that was
            read has the form of `recipe`; says what was found and which columns there are.
    """
    records, example, columns = 0, None, dict[str, None]()
    for position, record in enumerate(islice(read_list(path), CHECKED_RECORDS)):
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
