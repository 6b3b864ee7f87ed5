"""Rows that repeat the text of an earlier one, found in a column of any length.

The texts are hashed once, into a file of eight bytes each; what is kept in memory grows with the number of texts that
are repeated, not with the number of rows.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.tables import short_hash

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PART_HASHES = 8_000_000
"""How many hashes are in memory at once."""


class Repeats:
    """Tells the first of equal texts from the later ones, for rows that are handed to it once, in their order."""

    def __init__(self, column: str, texts: Iterable["pa.StringArray"], scratch: Path) -> None:
        """`texts` are those of all rows, some at a time; `scratch` is a file that may be written."""
        import numpy as np

        self.column, self.scratch, self.row = column, scratch, 0
        with scratch.open("wb") as file:
            for some in texts:
                np.fromiter(map(hash, some.to_pylist()), np.int64, len(some)).tofile(file)
        self.repeated = _repeated(scratch)
        # Of each repeated hash: the key that it was first kept with, and 64 bits more of that text.
        self.first = np.full(len(self.repeated), -1, dtype=np.int64)
        self.more = np.zeros(len(self.repeated), dtype=np.uint64)

    def later(self, batch: "pa.RecordBatch", is_left_out: "np.ndarray") -> tuple["np.ndarray", Callable[[int], str]]:
        """Which of the next rows repeat an earlier one, and the words for it; those that are left out do not count."""
        import numpy as np

        hashes = np.fromfile(self.scratch, np.int64, len(batch), offset=8 * self.row)
        self.row += len(batch)
        is_later, holders = np.zeros(len(batch), dtype=bool), dict[int, int]()
        spots = np.searchsorted(self.repeated, hashes)
        spots[spots == len(self.repeated)] = 0
        may_be = self.repeated[spots] == hashes if len(self.repeated) else is_later
        texts, keys = batch.column(self.column), batch.column("key")
        for place in np.flatnonzero(may_be & ~is_left_out).tolist():
            spot, more = spots[place], short_hash(texts[place].as_py())
            if self.first[spot] < 0:
                self.first[spot], self.more[spot] = int(keys[place].as_py()), more
            elif self.more[spot] == more:
                is_later[place], holders[place] = True, int(self.first[spot])
        return is_later, lambda place: f"as row {holders[place]:09d}"


def _repeated(path: Path) -> "np.ndarray":
    """The hashes in the file at `path` that are there more than once, in order."""
    import numpy as np

    parts = 1 + path.stat().st_size // (8 * PART_HASHES)
    found = []
    for part in range(parts):
        some = np.sort(np.concatenate([np.empty(0, np.int64), *(h[h % parts == part] for h in _chunks(path))]))
        found.append(np.unique(some[1:][some[1:] == some[:-1]]))
    return np.sort(np.concatenate(found))


def _chunks(path: Path) -> Iterator["np.ndarray"]:
    import numpy as np

    with path.open("rb") as file:
        while len(chunk := np.fromfile(file, np.int64, PART_HASHES // 8)):
            yield chunk
