"""Records of a URL and a caption as columns of a table, thousands at a time.

What `rows_of` and `clean_caption` make of one record, made of many: of those in plain ASCII, which nearly all are.
The others are left to `rows_of`, so that there is one definition of what a record becomes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.reading.bytewise import bytes_of, has_byte, has_spare_space
from tasks.reading.list_columns import Columns, WantedColumns, named
from tasks.tables import SIZE, compute
from tinygptv_core.columns import MAX_CAPTION_WORDS, caption_turns
from tinygptv_core.recipe import Recipe, Row

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MAX_SIDE = 1 << 31
MAX_DIGITS = 10
_OTHER = 0
_IN_URLS = bytes(letter if ord("!") <= letter <= ord("~") else _OTHER for letter in range(256))
# What becomes of each byte of a caption. A backslash is spelled otherwise in JSON, so it is not plain.
_CLEANED = bytes(
    _OTHER if not " " <= letter <= "~" or letter == "\\" else ord(" " if letter in '.!"()*#:;~' else letter.lower())
    for letter in map(chr, range(256))
)


def is_captioned(recipe: Recipe) -> bool:
    """Whether a record of `recipe` is a URL and a caption, perhaps with a size, and nothing else."""
    is_one_sample = recipe.samples is None and recipe.picture_name is None and not (recipe.split or recipe.group)
    return recipe.turns is caption_turns and recipe.how == "url" and is_one_sample


def wanted_of(recipe: Recipe) -> WantedColumns:
    """The columns of a list that such a recipe reads."""
    return WantedColumns(texts=(recipe.picture or "", "caption"), numbers=recipe.size or ())


def with_names(recipe: Recipe, record: Row) -> Row:
    """`record` with the columns that such a recipe reads under the names that it reads them by (`named`)."""
    wanted = wanted_of(recipe)
    if all(name in record for name in wanted.texts):
        return record
    return {**record, **{column: record[name] for column, name in named(record, wanted).items() if name in record}}


def captioned(recipe: Recipe, first: int, piece: Sequence[object]) -> tuple["pa.Table", "np.ndarray"]:
    """A row for each record of `piece`, whose first is the list's record `first`; and which rows are known here."""
    import numpy as np
    import pyarrow as pa

    pc = compute()
    wanted = wanted_of(recipe)
    urls, captions = (_texts(piece, column) for column in wanted.texts)
    turns, is_known = turns_of(captions)
    is_known &= np.array(captions.is_valid()) & _are_plain(urls)
    keys = pc.utf8_lpad(pc.cast(pa.array(np.arange(first, first + len(piece))), pa.string()), 9, "0")
    none, no_side = pa.nulls(len(piece), pa.string()), pa.nulls(len(piece), pa.int32())
    sides = [_sides(piece, column) for column in wanted.numbers] or [no_side, no_side]
    names = ["key", "url", "file", "turns", "split", "group", *SIZE]
    return pa.table([keys, urls, none, turns, none, none, *sides], names=names), is_known


def _are_plain(urls: "pa.StringArray") -> "np.ndarray":
    """Which of the URLs are there, and have nothing in them that is not ASCII, or that would be stripped."""
    import numpy as np

    offsets, text = bytes_of(urls)
    return (np.diff(offsets) > 0) & ~has_byte(offsets, text.translate(_IN_URLS), _OTHER)


def _texts(piece: Sequence[object], column: str) -> "pa.StringArray":
    """The text that each record has in `column`; null where it has none, or one that UTF-8 cannot spell."""
    if isinstance(piece, Columns):
        return piece.table.column(column).combine_chunks()
    return _array([text if isinstance(text, str) else None for text in _values(piece, column)])


def _array(texts: Sequence[str | None]) -> "pa.StringArray":
    """`texts` as a column; half a surrogate pair is none."""
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([text if text and text.isascii() else None for text in texts], pa.string())


def _sides(piece: Sequence[object], column: str) -> "pa.Array":
    import pyarrow as pa

    return pa.array([side_of(value) for value in _values(piece, column)], pa.int32())


def _values(piece: Sequence[object], column: str) -> Sequence[object]:
    """What each record has in `column`, whatever it is."""
    if isinstance(piece, Columns):
        return piece.table.column(column).to_pylist() if column in piece.table.column_names else [None] * len(piece)
    return [record.get(column) if isinstance(record, dict) else None for record in piece]


def side_of(value: object) -> int | None:
    """A picture's width or height in pixels, from what a record says; None if it is no whole number in 1..2^31 - 1."""
    side = 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS:
        side = int(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        side = int(value)
    return side if 0 < side < MAX_SIDE else None


def turns_of(captions: "pa.StringArray") -> tuple["pa.StringArray", "np.ndarray"]:
    """What is said about each picture, as `TableRow.turns`, and for which of them that is known here."""
    import numpy as np
    import pyarrow as pa

    pc = compute()
    offsets, text = bytes_of(captions)
    cleaned = text.translate(_CLEANED)
    is_other = has_byte(offsets, cleaned, _OTHER)
    is_untidy = has_spare_space(offsets, cleaned)
    is_untidy |= np.diff(offsets) > 2 * MAX_CAPTION_WORDS  # a shorter one cannot have more words
    said = pa.StringArray.from_buffers(len(captions), pa.py_buffer(offsets.tobytes()), pa.py_buffer(cleaned))
    untidy = said.filter(pa.array(is_untidy)).to_pylist()
    tidy = pa.array([" ".join(caption.split()[:MAX_CAPTION_WORDS]) for caption in untidy], pa.string())
    said = pc.replace_with_mask(said, pa.array(is_untidy), tidy)
    return pc.binary_join_element_wise('[["assistant", "', said, '"]]', ""), ~is_other
