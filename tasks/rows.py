"""A list of records becomes a table: a row per sample, and a drop with its reason for each record that is none."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.hosts import host_of
from tasks.quantities import counted
from tasks.reading.annotations import Unjoined, is_list, records
from tasks.reading.captions import captioned, is_captioned, side_of, wanted_of, with_names
from tasks.reading.json_arrays import Malformed
from tasks.reading.list_columns import OTHER_NAMES, names_for
from tasks.reading.lists import SEPARATED, list_form, read_list, read_pieces
from tasks.request import Step, StepFolders
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
from tinygptv_core.annotations import picture_of, samples_of
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Recipe, Row, UnfitError, check_place, check_turns
from tinygptv_core.user_code import line_raised

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = Step(name="rows", kind="table", version=2)

# How many records are looked at to say which columns a list has that no sample can be made of.
COLUMNS_FROM_RECORDS = 100
# A longer list is not read to its end only to be checked; converting it tells the rest.
CHECKED_RECORDS = 2_000_000
MOST_LOOKED_AT = 1_000
"""Records of a list whose hosts are looked at before a run."""

# Fewer rows than this share of what a recipe expects are told: a file that was cut is still a file.
EXPECTED_SHARE = 0.95

UNREADABLE = (LookupError, AttributeError, TypeError, ValueError)
"""What a recipe's functions raise for a record without the data set's form."""


NO_FILES: Mapping[str, Path] = {}


def rows(
    recipe: Recipe, name: str, list_file: Path, folders: StepFolders, joined: Mapping[str, Path] = NO_FILES
) -> None:
    """`rows_of_lists` of one list."""
    rows_of_lists(recipe, name, (list_file,), folders, joined)


def rows_of_lists(
    recipe: Recipe, name: str, list_files: Sequence[Path], folders: StepFolders, joined: Mapping[str, Path] = NO_FILES
) -> None:
    """The data set as a table, in its sources' order, one after the other: a row for each sample of each record.

    A row's key is its position in all of them. A record of which no sample can be made is one row, and dropped.
    Where there are several files, the detail of a drop says in which it was and where.

    Args:
        joined: the files that the recipe joins to its source, by the paths that it calls them.

    Raises:
        ConfigError: a file cannot be read to its end, the recipe fails, or no record has the form of data set `name`.
    """
    clear(folders.out)
    position, tally, first = 0, Tally(), None
    with (
        TableWriter(folders.out / ROWS_FILE, TableRow, SIZE if recipe.size else ()) as kept,
        TableWriter(folders.out / DROPPED_FILE, Drop) as dropped,
    ):
        for list_file in list_files:
            begin = position
            for piece in _pieces(recipe, list_file, joined):
                try:
                    table, drops = table_of(recipe, position, piece)
                except ConfigError as error:
                    raise ConfigError(f"{name}: {error}") from error
                kept.write_table(table)
                for drop in drops:
                    where = f"{list_file.name}, record {int(drop.key) - begin}: " if len(list_files) > 1 else ""
                    dropped.write(replace(drop, detail=where + drop.detail))
                position, tally.kept = position + len(table) + len(drops), tally.kept + len(table)
                tally.dropped.update(drop.reason for drop in drops)
                first = first or next(iter(drops), None)
    if not tally.kept:
        lists = ", ".join(map(str, list_files))
        why = f"{tally.reasons()}. The first: {first.detail}" if first else tally.reasons()
        raise ConfigError(f"{lists}: no record of {position} has the form of {name}: {why}")
    if position < EXPECTED_SHARE * (recipe.expected_rows or 0):
        logging.getLogger(__name__).warning(
            "%s: %d rows, where about %d are expected; is its file whole?", name, position, recipe.expected_rows
        )
    tally.write(folders.out, position)


def _pieces(recipe: Recipe, list_file: Path, joined: Mapping[str, Path]) -> Iterator[Sequence[object]]:
    """The records of one file, some at a time."""
    if is_captioned(recipe) and is_list(recipe, list_file) and not recipe.layout.joins:
        return read_pieces(list_file, wanted_of(recipe))
    found = records(recipe, list_file, joined)
    return iter(lambda: list(islice(found, READ_ROWS)), [])


def table_of(recipe: Recipe, first: int, piece: Sequence[object]) -> tuple["pa.Table", list[Drop]]:
    """`rows_of` each of the records of `piece`, the first with the key of `first`: a table, and what is no row."""
    import numpy as np
    import pyarrow as pa

    made: list[TableRow | Drop] = []
    if not is_captioned(recipe):
        for record in piece:
            made.extend(rows_of(recipe, first + len(made), record))
        return _parted(made)
    table, is_known = captioned(recipe, first, piece)
    if is_known.all():
        return table, []
    for place in np.flatnonzero(~is_known).tolist():
        made.extend(rows_of(recipe, first + place, piece[place]))
    others, drops = _parted(made)
    return pa.concat_tables([table.filter(pa.array(is_known)), others]).sort_by("key"), drops


def _parted(made: Sequence[TableRow | Drop]) -> tuple["pa.Table", list[Drop]]:
    kept = [row for row in made if isinstance(row, TableRow)]
    return columns_of(kept, TableRow, SIZE), [row for row in made if isinstance(row, Drop)]


def rows_of(recipe: Recipe, position: int, record: object) -> Iterator[TableRow | Drop]:
    """The table's rows of one record, the first of them with the key of `position`; or why there is none."""
    try:
        fields = _fields(record)
        samples = samples_of(recipe, with_names(recipe, fields) if is_captioned(recipe) else fields)
    except UNREADABLE as error:
        yield _drop(position, None, error)
        return
    except MemoryError:  # no fault of the recipe's
        raise
    except Exception as error:
        raise _failed(position, record, error) from error
    for place, sample in enumerate(samples):
        yield _row_of(recipe, position + place, sample)


def _row_of(recipe: Recipe, position: int, sample: Row) -> TableRow | Drop:
    url = None
    try:
        picture = picture_of(recipe, sample)
        url, file = (picture, None) if recipe.how == "url" else (None, picture)
        turns = _turns(recipe, sample)
        split, group = (str(sample[column]) if column else None for column in (recipe.split, recipe.group))
        for text in (picture, split, group):
            (text or "").encode()  # half a surrogate pair is no text, and nothing after this step could write it
        width, height = (side_of(sample.get(column)) for column in recipe.size) if recipe.size else (None, None)
    except ConfigError as error:  # of the recipe's prompts, which no key of this step covers: a drop would stay
        raise ConfigError(f"its recipe failed at row {_key(position)}: {error}") from error
    except UNREADABLE as error:
        return _drop(position, url, error)
    except MemoryError:
        raise
    except Exception as error:
        raise _failed(position, sample, error) from error
    about = {"url": url, "file": file, "split": split, "group": group}
    return TableRow(key=_key(position), turns=turns, width=width, height=height, **about)


def _key(position: int) -> str:
    return f"{position:09d}"


def _drop(position: int, url: str | None, error: Exception) -> Drop:
    said = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    reason = error.reason if isinstance(error, UnfitError) else "broken_record"
    return Drop(key=_key(position), url=_encodable(url), reason=reason, detail=_encodable(said) or "")


def _failed(position: int, record: object, error: Exception) -> ConfigError:
    """What is said of a recipe whose function fails as it may not."""
    line = line_raised(error, __file__, samples_of.__code__.co_filename)
    what = f"{type(error).__name__}: {error} ({line})"
    return ConfigError(f"its recipe failed at row {_key(position)}: {what}. The record: {record!r:.100}")


def _fields(record: object) -> Row:
    if isinstance(record, Malformed):
        raise ValueError(record.detail)
    if isinstance(record, Unjoined):
        raise record.error
    if not isinstance(record, Mapping):
        raise TypeError(f"a record is an object, not {type(record).__name__}")
    return record


def _turns(recipe: Recipe, record: Mapping[str, object]) -> str:
    """What is said about the record, as JSON.

    Raises:
        LookupError, AttributeError, TypeError, ValueError: the record does not have the data set's form, or what is
            said is none.
        ConfigError: a prompt has no place for the question.
    """
    turns = recipe.turns(record)
    if not turns:
        raise ValueError("nothing is said in it")
    check_turns(turns)
    if turns[0].role == "user":
        for prompt, asked in product(recipe.prompts, turns[0].texts):
            check_place(prompt, asked)
    text = json.dumps([[turn.role, *turn.texts] for turn in turns], ensure_ascii=False)
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
    num_records, example, columns = 0, None, dict[str, None]()
    for position, record in enumerate(islice(read_list(path), CHECKED_RECORDS)):
        num_records = position + 1
        if isinstance(example, TableRow):
            continue  # one good record is enough; the rest is read for the file's own sake
        row = next(rows_of(recipe, position, record))
        if isinstance(record, Mapping) and position < COLUMNS_FROM_RECORDS:
            columns |= dict.fromkeys(map(str, record))
        example = row if isinstance(row, TableRow) else example or row
    if example is None:
        raise ConfigError(f"{path} holds no record; a list holds at least one")
    if isinstance(example, Drop):
        raise ConfigError(_refusal(path, num_records, example, list(columns)))
    return num_records


def hosts_listed(path: Path, recipe: Recipe) -> frozenset[str] | None:
    """The hosts of the URLs in a user's list that has no more than `MOST_LOOKED_AT` records; None if it has more."""
    records = list(islice(read_list(path), MOST_LOOKED_AT + 1))
    if len(records) > MOST_LOOKED_AT:
        return None
    rows = (row for position, record in enumerate(records) for row in rows_of(recipe, position, record))
    return frozenset(filter(None, (host_of(row.url) for row in rows)))


def _refusal(path: Path, num_records: int, example: Drop, columns: list[str]) -> str:
    found = f"Its columns are: {', '.join(columns) or 'none'}"
    if list_form(path) in SEPARATED:
        found += "; its first line must name them"
    missing = example.detail.removeprefix("there is no ").strip("'")
    if columns and example.detail == f"there is no {missing!r}":
        if len(several := names_for(missing, columns)) > 1:
            return f"{path} has several columns that may be {missing}: {', '.join(several)}. Call one of them {missing}"
        other = f" (or {OTHER_NAMES[missing]})" if missing in OTHER_NAMES else ""
        return f"{path} has no column {missing}{other}. {found}"
    return f"{path}: of {counted(num_records, 'record')} none can be used. The first: {example.detail}. {found}"
