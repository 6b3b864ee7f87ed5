"""What a pickle would import, read off its opcodes without running any of them: to say what was refused, and why."""

import io
import lzma
import pickletools
import re
import zipfile
import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

ZIP = b"PK\x03\x04"
PICKLES_IN_A_FILE = 5
"""Before torch 1.6 so many stand one after the other; then come the bytes of the tensors."""

MOST_BYTES = 8 << 20
MOST_OPCODES = 1_000_000
"""What is looked at. The pickle of a state_dict has some hundred kilobytes."""

HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex)"
    r"|torch\.(\w*Storage|Size|Tensor|device|(bfloat|complex|float|int|qint|quint|uint)\w+|bool)"
    r"|torch\.storage\.(Typed|Untyped)Storage|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
)
"""What torch itself takes without being asked: tensors are made of it."""

NEVER_OF_TORCH = ("INST", "EXT1", "EXT2", "EXT4")
"""Opcodes that import, and that no pickler of Python 3 writes for what torch saves."""

BESIDE_THE_STACK = ("PROTO", "FRAME")
MEMORIES = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")
RECALLS = ("GET", "BINGET", "LONG_BINGET")


@dataclass(frozen=True, kw_only=True)
class PickleScan:
    """What there is to say of a pickle.

    Attributes:
        wants: what it would import beyond what tensors are made of (`os.system`), or the opcode that hides it.
        whole: it ends where pickles end.
        endless: it is longer than what was looked at.
    """

    wants: tuple[str, ...] = ()
    whole: bool = False
    endless: bool = False


def scan_pickle(path: Path) -> PickleScan:
    """What the pickle in a file of torch's would import, whether the file is an archive or not."""
    try:
        data = _pickle_in(path)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, OSError, EOFError, StopIteration, ValueError):
        return PickleScan()
    file, wants, opcodes = io.BytesIO(data), dict[str, None](), 0
    for _ in range(PICKLES_IN_A_FILE):
        names = _Names()
        try:
            for opcode, argument, _ in islice(pickletools.genops(file), MOST_OPCODES - opcodes):
                names.take(opcode, argument)
                opcodes += 1
        except (ValueError, LookupError, OverflowError):
            return PickleScan(wants=(*wants, *names.wants), endless=file.tell() == MOST_BYTES)
        wants |= dict.fromkeys(names.wants)
        if opcodes == MOST_OPCODES:
            return PickleScan(wants=tuple(wants), endless=True)
        if file.tell() == len(data):
            break
    return PickleScan(wants=tuple(wants), whole=True)


def _pickle_in(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(MOST_BYTES)
    if not start.startswith(ZIP):
        return start
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if Path(name).name == "data.pkl")
        with archive.open(name) as member:
            return member.read(MOST_BYTES)


class _Names:
    """Takes opcodes one by one, and knows a text on top of the stack if it was just put there, or remembered."""

    def __init__(self) -> None:
        self.wants: list[str] = []
        self._last: list[str | None] = [None, None]
        self._memo: dict[int, str | None] = {}

    def take(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """The next of them."""
        name = opcode.name
        if name in BESIDE_THE_STACK:
            return
        if name in MEMORIES:
            place = argument if isinstance(argument, int) else len(self._memo)
            self._memo[place] = self._last[-1]
            return
        if name in ("GLOBAL", "INST"):
            self._want(str(argument).replace(" ", "."), name)
        elif name == "STACK_GLOBAL":
            self._want(".".join(text for text in self._last if text) if all(self._last) else name, name)
        elif name in NEVER_OF_TORCH:
            self._want(name, name)
        self._last = [self._last[-1], self._text(name, argument)]

    def _want(self, what: str, opcode: str) -> None:
        if opcode in NEVER_OF_TORCH or not HARMLESS.fullmatch(what):
            self.wants.append(what)

    def _text(self, name: str, argument: object) -> str | None:
        if name in RECALLS and isinstance(argument, int):
            return self._memo.get(argument)
        return argument if isinstance(argument, str) and "UNICODE" in name else None
