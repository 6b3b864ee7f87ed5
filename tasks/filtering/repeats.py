"""Rows that repeat the text of an earlier one, told from the first that has it.

`Repeats` is for a column of any length, whose rows come in batches: the texts are hashed once, into a file of eight
bytes each, and what is kept in memory grows with the number of texts that are repeated, not with the number of rows.

`FirstOf` is for rows that are judged one by one, as those of a ledger; it takes eight bytes of memory for each.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PART_HASHES = 8_000_000
"""How many hashes are in memory at once."""
MOST_BITS = 24
"""Of a hash, by which most are told to be there once: 16 MB."""


class Repeats:
    """Tells the first of equal texts from the later ones, for rows that are handed to it once, in their order."""

    def __init__(self, column: str, texts: Iterable["pa.StringArray"], scratch: Path) -> None:
        """`texts` are those of all rows, some at a time; `scratch` is a file that may be written."""
        import numpy as np
        import pyarrow as pa

        self.column, self.scratch, self.row = column, scratch, 0
        with scratch.open("wb") as file:
            for some in texts:
                np.fromiter(map(hash, some.cast(pa.binary()).to_pylist()), np.int64, len(some)).tofile(file)
        self.repeated = _repeated(scratch)
        # Most hashes are not repeated, which some of their bits tell without a search.
        self.bits = (1 << min(MOST_BITS, len(self.repeated).bit_length() + 4)) - 1
        self.may_be = np.zeros(self.bits + 1, dtype=bool)
        self.may_be[self.repeated & self.bits] = True
        # Of each repeated hash: the key that it was first kept with, and 64 bits more of that text.
        self.first = np.full(len(self.repeated), -1, dtype=np.int64)
        self.more = np.zeros(len(self.repeated), dtype=np.int64)

    def later(self, batch: "pa.RecordBatch", is_left_out: "np.ndarray") -> tuple["np.ndarray", Callable[[int], str]]:
        """Which of the next rows repeat an earlier one, and the words for it; those that are left out do not count.

        A row without a text repeats none.
        """
        import numpy as np

        is_asked = np.array(batch.column(self.column).is_valid()) & ~is_left_out
        places, spots = self._found(np.flatnonzero(is_asked), len(batch))
        texts, keys = (batch.column(name).take(places).to_pylist() for name in (self.column, "key"))
        holders = dict[int, int]()
        for place, spot, text, key in zip(places.tolist(), spots.tolist(), texts, keys, strict=True):
            more = hash(text[::-1])
            if self.first[spot] < 0:
                self.first[spot], self.more[spot] = int(key), more
            elif self.more[spot] == more:
                holders[place] = int(self.first[spot])
        is_later = np.zeros(len(batch), dtype=bool)
        is_later[list(holders)] = True
        return is_later, lambda place: f"as row {holders[place]:09d}"

    def _found(self, places: "np.ndarray", count: int) -> tuple["np.ndarray", "np.ndarray"]:
        """Those `places` of the next `count` rows whose hashes are repeated, and where these are in `repeated`."""
        import numpy as np

        hashes = np.fromfile(self.scratch, np.int64, count, offset=8 * self.row)[places]
        self.row += count
        is_found = self.may_be[hashes & self.bits]
        places, hashes = places[is_found], hashes[is_found]
        spots = np.minimum(np.searchsorted(self.repeated, hashes), len(self.repeated) - 1)
        is_found = self.repeated[spots] == hashes
        return places[is_found], spots[is_found]


def _repeated(path: Path) -> "np.ndarray":
    """The hashes in the file at `path` that are there more than once, in order."""
    import numpy as np

    parts = 1 << (path.stat().st_size // (8 * PART_HASHES)).bit_length()  # a power of two
    found = []
    for part in range(parts):
        some = np.concatenate([np.empty(0, np.int64), *(h[h & (parts - 1) == part] for h in _chunks(path))])
        some.sort()
        found.append(np.unique(some[1:][some[1:] == some[:-1]]))
    return np.sort(np.concatenate(found))


def _chunks(path: Path) -> Iterator["np.ndarray"]:
    import numpy as np

    with path.open("rb") as file:
        while len(chunk := np.fromfile(file, np.int64, PART_HASHES // 8)):
            yield chunk


class FirstOf:
    """Tells the first of equal texts from the later ones, where texts come one by one and not all are asked about.

    Only texts that may be repeated are remembered; of the others there is no more than a hash, while it is made.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        import numpy as np

        hashes = np.sort(np.array(array("q", map(hash, texts)), dtype=np.int64))
        self.repeated = frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        self.seen: dict[str, str] = {}

    def holder(self, text: str, key: str) -> str | None:
        """The key that `text` was first given with, or None if that is now."""
        if hash(text) not in self.repeated:
            return None
        first = self.seen.setdefault(text, key)
        return None if first == key else first
