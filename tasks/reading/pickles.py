"""Read a pickle of plain values without running code: lists, tuples, objects, texts, numbers, and nothing else.

RefCOCO's references come as one. A pickle is a program; here it may build plain values, and may name nothing. Its
instructions are done here and not by Python's own reader, which hashes whatever a pickle uses as the name of a value.
"""

import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinygptv_core.plain import ConfigError

MAX_BYTES = 1 << 28
MAX_DEPTH = 16
"""Lists within lists; RefCOCO's references have 5."""
MAX_SHARED = 16
"""How often values may be shared within the pickle: it holds at most so many of them for each of its bytes."""
MAX_BITS = 64
"""Of a whole number."""


def read_plain_pickle(path: Path) -> object:
    """The value in the pickle at `path`, as plain as JSON; tuples are lists in it.

    Raises:
        ConfigError: it is too large, cut off, nested too deeply, or would do anything else than build plain values.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes, over {MAX_BYTES}; it is not what was published")
    data = path.read_bytes()
    try:
        return _Copy(MAX_SHARED * len(data)).of(_built(data), MAX_DEPTH)
    except UnsafePickleError as error:
        raise ConfigError(
            f"{path} is refused: it is a pickle that {error}. A pickle can run any program on this machine; "
            "the published file holds lists, texts and numbers alone. Get it again from where its recipe says"
        ) from None
    except (EOFError, ValueError, IndexError, KeyError, MemoryError) as error:
        raise ConfigError(f"{path} is no whole pickle: {error or type(error).__name__}. Get it again") from None


class UnsafePickleError(Exception):
    """What a pickle would do that it may not."""


def _built(data: bytes) -> object:
    """What the pickle's instructions build.

    Raises:
        UnsafePickleError: one is not allowed.
        ValueError, IndexError, KeyError: it is no pickle, or cut off.
    """
    stack = _Stack()
    for opcode, argument, _ in pickletools.genops(data):
        do = INSTRUCTIONS.get(opcode.name)
        if do is None:
            named = f" ({argument})" if isinstance(argument, str) else ""
            raise UnsafePickleError(f"has the instruction {opcode.name}{named}")
        do(stack, argument)
    return stack.values.pop()


class _Stack:
    """The values that a pickle has begun, those that it will come back to, and where its groups of values begin."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.kept: dict[int, Any] = {}
        self.marks: list[int] = []

    def push(self, value: object) -> None:
        """Put a value on top."""
        self.values.append(value)

    def number(self, number: int) -> None:
        """Put a whole number on top."""
        if number.bit_length() > MAX_BITS:
            raise UnsafePickleError(f"has a whole number of {number.bit_length()} bits")
        self.push(number)

    def python_2_text(self, text: str) -> None:
        """Put a text on top that Python 2 held as bytes, which `text` has as a character each."""
        self.push(text.encode("latin-1").decode("utf-8", "replace"))

    def keep(self, place: int | None) -> None:
        """Keep the value on top at a place, or at the next."""
        self.kept[len(self.kept) if place is None else place] = self.values[-1]

    def mark(self) -> None:
        """Begin a group."""
        self.marks.append(len(self.values))

    def taken(self, count: int) -> list[Any]:
        """The uppermost `count` values, off the stack."""
        if count > len(self.values):
            raise IndexError("it takes more than it has made")
        taken = self.values[-count:]
        del self.values[-count:]
        return taken

    def group(self) -> list[Any]:
        """The values since the last mark, off the stack."""
        begin = self.marks.pop()
        group = self.values[begin:]
        del self.values[begin:]
        return group

    def drop(self) -> None:
        """Take the value on top off, or the mark."""
        (self.marks if self.marks and self.marks[-1] == len(self.values) else self.values).pop()

    def extend(self, items: list[Any]) -> None:
        """Add to the list on top."""
        if not isinstance(self.values[-1], list):
            raise ValueError("it adds to what is no list")
        self.values[-1].extend(items)

    def set(self, items: list[Any]) -> None:
        """Give the object on top names and values by turns."""
        if not isinstance(self.values[-1], dict):
            raise ValueError("it names values of what is no object")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, list | dict):
                raise UnsafePickleError("names a value by a list or an object")
            self.values[-1][key] = value

    def push_object(self, items: list[Any]) -> None:
        """Put an object of these names and values on top."""
        self.push({})
        self.set(items)


# What builds plain values. Whatever could name, make or call something else is missing here, and with it what
# fetches values from outside (persistent ids, buffers, extensions).
INSTRUCTIONS: Mapping[str, Callable[[_Stack, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda stack, argument: None),
    **dict.fromkeys(("NONE", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"), _Stack.push),
    **dict.fromkeys(("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Stack.push),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Stack.number),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Stack.python_2_text),
    "NEWTRUE": lambda stack, _: stack.push(True),
    "NEWFALSE": lambda stack, _: stack.push(False),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Stack.keep),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda stack, place: stack.push(stack.kept[place])),
    "MARK": lambda stack, _: stack.mark(),
    "DUP": lambda stack, _: stack.push(stack.values[-1]),
    "POP": lambda stack, _: stack.drop(),
    "POP_MARK": lambda stack, _: stack.group().clear(),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_TUPLE"), lambda stack, _: stack.push([])),
    **dict.fromkeys(("LIST", "TUPLE"), lambda stack, _: stack.push(stack.group())),
    "TUPLE1": lambda stack, _: stack.push(stack.taken(1)),
    "TUPLE2": lambda stack, _: stack.push(stack.taken(2)),
    "TUPLE3": lambda stack, _: stack.push(stack.taken(3)),
    "APPEND": lambda stack, _: stack.extend(stack.taken(1)),
    "APPENDS": lambda stack, _: stack.extend(stack.group()),
    "EMPTY_DICT": lambda stack, _: stack.push({}),
    "DICT": lambda stack, _: stack.push_object(stack.group()),
    "SETITEM": lambda stack, _: stack.set(stack.taken(2)),
    "SETITEMS": lambda stack, _: stack.set(stack.group()),
}


class _Copy:
    """Copies values as JSON would have them, `left` at most: a few lists that hold each other may mean billions."""

    def __init__(self, left: int) -> None:
        self.left = left

    def of(self, value: object, depth: int) -> object:
        """`value`, copied.

        Raises:
            UnsafePickleError: it is nested too deeply, as a list within itself is, or too large.
        """
        self.left -= 1
        if depth == 0 or self.left < 0:
            raise UnsafePickleError(
                f"is nested more than {MAX_DEPTH} deep" if depth == 0 else "means far more than it holds"
            )
        if isinstance(value, list):
            return [self.of(item, depth - 1) for item in value]
        if isinstance(value, dict):
            return {key: self.of(item, depth - 1) for key, item in value.items()}
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
