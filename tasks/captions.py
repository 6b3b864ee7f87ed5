"""Records of a URL and a caption as columns of a table, thousands at a time.

What `rows_of` and `clean_caption` make of one record, made of many: of those in plain ASCII, which nearly all are.
The others are left to `rows_of`, so that there is one definition of what a record becomes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.tables import SIZE, compute
from tinygptv_core.recipe import MAX_CAPTION_WORDS, Recipe, caption_turns

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MAX_SIDE = 1 << 31
MAX_DIGITS = 10
_OTHER = 0
# What becomes of each byte of a caption. A backslash is spelled otherwise in JSON, so it is not plain.
_CLEANED = bytes(
    _OTHER if not " " <= letter <= "~" or letter == "\\" else ord(" " if letter in '.!"()*#:;~' else letter.lower())
    for letter in map(chr, range(256))
)


def is_captioned(recipe: Recipe) -> bool:
    """Whether a record of `recipe` is a URL and a caption, perhaps with a size, and nothing else."""
    is_one_sample = recipe.samples is None and recipe.picture_name is None and not (recipe.split or recipe.group)
    return recipe.turns is caption_turns and recipe.how == "url" and is_one_sample


def captioned(recipe: Recipe, first: int, records: Sequence[object]) -> tuple["pa.Table", "np.ndarray"]:
    """A row for each of `records`, the first of which is the list's record `first`, and which rows are known here."""
    import numpy as np
    import pyarrow as pa

    pc = compute()
    assert recipe.picture
    urls = _array([text and text.strip() for text in _texts(records, recipe.picture)])
    captions = _array(_texts(records, "caption"))
    turns, is_known = turns_of(captions)
    is_known &= np.array(captions.is_valid()) & np.array(pc.fill_null(pc.greater(pc.binary_length(urls), 0), False))
    keys = pc.utf8_lpad(pc.cast(pa.array(np.arange(first, first + len(records))), pa.string()), 9, "0")
    none, sides = pa.nulls(len(records), pa.string()), [_sides(records, column) for column in recipe.size or ("", "")]
    names = ["key", "url", "file", "turns", "split", "group", *SIZE]
    return pa.table([keys, urls, none, turns, none, none, *sides], names=names), is_known


def _texts(records: Sequence[Any], column: str) -> list[str] | list[str | None]:
    """The text that each record has in `column`; None where it has none."""
    try:
        texts: list[str] = [record[column] for record in records]
        if {*map(type, texts)} == {str}:
            return texts
    except (KeyError, TypeError):
        pass
    found = [record.get(column) if isinstance(record, dict) else None for record in records]
    return [text if isinstance(text, str) else None for text in found]


def _array(texts: Sequence[str | None]) -> "pa.StringArray":
    """`texts` as a column; what cannot be written as UTF-8, half a surrogate pair, is none."""
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([text if text and text.isascii() else None for text in texts], pa.string())


def _sides(records: Sequence[Any], column: str) -> "pa.Array":
    import pyarrow as pa

    sides = [side_of(record.get(column)) if isinstance(record, dict) else None for record in records] if column else []
    return pa.array(sides or [None] * len(records), pa.int32())


def side_of(value: object) -> int | None:
    """A picture's width or height in pixels, from what a record says; None if it is no whole number above 0."""
    side = 0
    if isinstance(value, str) and value.isascii() and value.isdigit():
        side = int(value[:MAX_DIGITS])
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


def bytes_of(texts: "pa.StringArray") -> tuple["np.ndarray", bytes]:
    """The bytes of all `texts`, and where each begins and the last ends: int32, from 0."""
    import numpy as np

    count, buffers = len(texts), texts.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int32)[texts.offset : texts.offset + count + 1]
    first, end = int(offsets[0]), int(offsets[-1])
    return offsets - offsets[0], buffers[2].slice(first, end - first).to_pybytes() if end > first else b""


def has_byte(offsets: "np.ndarray", text: bytes, byte: int) -> "np.ndarray":
    """Which of the texts has `byte` in it."""
    import numpy as np

    found = np.zeros(len(offsets) - 1, dtype=bool)
    if byte in text:
        _mark(found, offsets, np.frombuffer(text, dtype=np.uint8) == byte)
    return found


def has_spare_space(offsets: "np.ndarray", text: bytes) -> "np.ndarray":
    """Which of the texts begins or ends with a space, or has one after another."""
    import numpy as np

    is_space = np.append(np.frombuffer(text, dtype=np.uint8) == ord(" "), False)  # so that an end has a place, too
    found = (np.diff(offsets) > 0) & (is_space[offsets[:-1]] | is_space[offsets[1:] - 1])
    is_second = is_space[1:] & is_space[:-1]
    if is_second.any():
        _mark(found, offsets, is_second)
    return found


def _mark(found: "np.ndarray", offsets: "np.ndarray", is_there: "np.ndarray") -> None:
    import numpy as np

    found[np.searchsorted(offsets, np.flatnonzero(is_there), side="right") - 1] = True
