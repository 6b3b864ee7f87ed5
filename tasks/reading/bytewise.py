"""Questions asked of the bytes of many texts at once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def bytes_of(texts: "pa.StringArray") -> tuple["np.ndarray", bytes]:
    """The bytes of all `texts`, and where each begins and the last ends: int32, from 0."""
    import numpy as np

    count, buffers = len(texts), texts.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int32)[texts.offset : texts.offset + count + 1]
    first, end = int(offsets[0]), int(offsets[-1])
    return offsets - offsets[0], buffers[2].slice(first, end - first).to_pybytes() if end > first else b""


def texts_between(data: bytes, begins: "np.ndarray", ends: "np.ndarray") -> "pa.StringArray":
    """What stands in `data` from each begin to its end; none begins before the one before it ends."""
    import numpy as np
    import pyarrow as pa

    edges = np.empty(2 * len(begins) + 1, dtype=np.int32)
    edges[:-1:2], edges[1::2], edges[-1] = begins, ends, len(data)
    parts = pa.StringArray.from_buffers(len(edges) - 1, pa.py_buffer(edges), pa.py_buffer(data))
    return parts.take(pa.array(np.arange(0, len(parts), 2)))


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
