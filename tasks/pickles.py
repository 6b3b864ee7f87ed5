"""Read a pickle of plain values without running code: lists, tuples, objects, texts, numbers, and nothing else.

RefCOCO's references come as one. A pickle is a program; here it may build plain values, and may name nothing.
"""

import io
import pickle
import pickletools
from pathlib import Path

from tinygptv_core.plain import ConfigError

MAX_BYTES = 1 << 28
MAX_DEPTH = 16
"""Lists within lists; RefCOCO's references have 5."""
MAX_SHARED = 16
"""How often values may be shared within the pickle: it holds at most so many of them for each of its bytes."""

# What builds plain values. Whatever could name, make or call something else is missing here, and with it what
# fetches values from outside (persistent ids, buffers, extensions).
ALLOWED = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE "
    "NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST APPEND APPENDS LIST "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS".split()
)


class _Plain(pickle.Unpickler):
    """An unpickler that finds no class and no function; the second wall, behind the check of the opcodes."""

    def find_class(self, module_name: str, global_name: str, /) -> object:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: object, /) -> object:
        raise pickle.UnpicklingError("it wants a value from outside")


def read_pickle(path: Path) -> object:
    """The value in the pickle at `path`, as plain as JSON; tuples are lists in it.

    Raises:
        ConfigError: it is too large, cut off, nested too deeply, or would do anything else than build plain values.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes, over {MAX_BYTES}; it is not what was published")
    data = path.read_bytes()
    try:
        _check(data)
        value = _Plain(io.BytesIO(data), encoding="utf-8", errors="replace").load()
        return _Copy(MAX_SHARED * len(data)).of(value, MAX_DEPTH)
    except RefusedError as error:
        raise ConfigError(
            f"{path} is refused: it is a pickle that {error}. A pickle can run any program on this machine; "
            "the published file holds lists, texts and numbers alone. Get it again from where its recipe says"
        ) from None
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, MemoryError) as error:
        raise ConfigError(f"{path} is no whole pickle: {error or type(error).__name__}. Get it again") from None


class RefusedError(Exception):
    """What a pickle would do that it may not."""


def _check(data: bytes) -> None:
    """Walk over the pickle's instructions without doing any.

    Raises:
        RefusedError: one is not allowed.
        ValueError: it is no pickle, or cut off.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in ALLOWED:
            named = f" ({argument})" if isinstance(argument, str) else ""
            raise RefusedError(f"has the instruction {opcode.name}{named}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise RefusedError("wants more memory than it can use")


class _Copy:
    """Copies values as JSON would have them, `left` at most: a few lists that hold each other may mean billions."""

    def __init__(self, left: int) -> None:
        self.left = left

    def of(self, value: object, depth: int) -> object:
        """`value`, copied.

        Raises:
            RefusedError: it is nested too deeply, as a list within itself is, or too large.
        """
        self.left -= 1
        if depth == 0 or self.left < 0:
            raise RefusedError(
                f"is nested more than {MAX_DEPTH} deep" if depth == 0 else "means far more than it holds"
            )
        if isinstance(value, list | tuple):
            return [self.of(item, depth - 1) for item in value]
        if isinstance(value, dict):
            return {key: self.of(item, depth - 1) for key, item in value.items()}
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
