"""How packed text is unpacked: gz, bz2, xz and zst, each to its very end or with an error."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

READ_BYTES = 1 << 17


class _Streams(io.RawIOBase):
    """Streams of bz2 or xz one after the other, and zeros between and after them, unpacked.

    Python's own readers end without a word at a later stream whose first block is damaged, as if it were no stream.
    """

    def __init__(self, file: BinaryIO, begun: Callable[[], Any]) -> None:
        """`begun` makes an unpacker of one stream."""
        self.file, self.begun = file, begun
        self.stream, self.begin, self.packed = begun(), 0, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self.stream.eof and not self._next():
                return 0
            if self.stream.needs_input and not self.packed:
                self.packed = self.file.read(READ_BYTES)
                if not self.packed:
                    raise EOFError(f"the stream that begins at byte {self.begin} has no end")
            data, self.packed = self._unpacked(len(buffer)), b""
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _unpacked(self, most: int) -> bytes:
        try:
            return self.stream.decompress(self.packed, most)
        except (OSError, lzma.LZMAError) as error:
            raise OSError(f"the stream that begins at byte {self.begin} cannot be read: {error}") from None

    def _next(self) -> bool:
        """Go to the next stream, if there is one."""
        self.packed = self.stream.unused_data.lstrip(b"\0")
        while not self.packed:
            piece = self.file.read(READ_BYTES)
            if not piece:
                return False
            self.packed = piece.lstrip(b"\0")
        self.stream, self.begin = self.begun(), self.file.tell() - len(self.packed)
        return True

    def close(self) -> None:
        self.file.close()
        super().close()


def _in_streams(begun: Callable[[], Any]) -> Callable[[Path], io.BufferedReader]:
    return lambda path: io.BufferedReader(_Streams(path.open("rb"), begun), READ_BYTES)


def _zstandard(path: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


OPENERS: Mapping[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": _in_streams(bz2.BZ2Decompressor),
    ".xz": _in_streams(lzma.LZMADecompressor),
    ".zst": _zstandard,
}
