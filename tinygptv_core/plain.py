"""Frozen dataclasses to plain JSON and back, their canonical bytes, and strict changes by dotted name.

Everything that is computed is described by frozen dataclasses; this is the one way in which they
become JSON (for keys and `RUN.json`) and come back, and the one way in which `--set` edits them.
A field with `metadata={"identity": False}` does not bear on a result and is left out of keys. One with
`{"identity": "unless default"}` is left out while it has its default: a choice that came later, whose
default is what was done before, so that the keys of before still name the same thing.
"""

import difflib
import hashlib
import json
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

NOT_IDENTITY: Mapping[str, Any] = {"identity": False}
MOST_NAMES = 3
"""That are named where one may have been meant."""
IDENTITY_UNLESS_DEFAULT: Mapping[str, Any] = {"identity": "unless default"}


class ConfigError(ValueError):
    """A value or name in a configuration that a user can mend; the message says how."""


def plain(value: object, *, identity: bool = False) -> Any:
    """`value` as JSON types. With `identity`, without the fields that do not bear on a result.

    Raises:
        ConfigError: the value holds something without stable bytes (a function, a set, a NaN).
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):  # 16.0 and 16 are one value, so they have one spelling
            return int(value) if value.is_integer() else value
        case Path():
            return str(value)
        case list() | tuple():
            return [plain(item, identity=identity) for item in value]
        case Mapping():
            return {_name(name): plain(item, identity=identity) for name, item in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            kept = [f for f in fields(value) if not identity or _is_identity(f, getattr(value, f.name))]
            return {f.name: plain(getattr(value, f.name), identity=identity) for f in kept}
    raise ConfigError(f"a config may not hold {type(value).__name__}: {value!r} has no stable bytes")


def _is_identity(of: Field[Any], value: object) -> bool:
    told = of.metadata.get("identity", True)
    return value != of.default if told == "unless default" else told


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"a config's names are strings, not {type(name).__name__}: {name!r}")
    return name


def canonical_json(value: object) -> str:
    """The one spelling of `value` that is hashed: identity fields only, sorted names, no white space."""
    return json.dumps(plain(value, identity=True), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_of(value: object) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def leaves(value: object, prefix: str = "") -> dict[str, Any]:
    """Every scalar of a plain JSON value by its dotted name: `{"schedule.peak": 3e-5}`."""
    if isinstance(value, Mapping) and (value or not prefix):
        return {k: v for name, item in value.items() for k, v in leaves(item, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): value}


def from_plain(kind: type[T], value: Any, where: str = "") -> T:
    """A `kind` (dataclass, scalar, literal, tuple, mapping, union) from JSON types, strictly.

    A value that fits several kinds of a union becomes the first of them.

    Raises:
        ConfigError: an unknown or missing name, or a value of another type; says where.
        TypeError: the kind itself, or one inside it, is none of these.
    """
    return _decode(kind, value, where)


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin is Literal:
        if value in get_args(kind):
            return value
        raise ConfigError(f"{where} is {value!r}; it must be one of {', '.join(map(repr, get_args(kind)))}")
    if origin is not None:
        return _decode_group(origin, get_args(kind), value, where)
    return _decode_scalar(kind, value, where)


def _decode_group(origin: Any, args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not issubclass(origin, (tuple, Mapping)):
        raise TypeError(f"{where} is to be a {origin.__name__}, which is not read from JSON")
    if issubclass(origin, tuple) and isinstance(value, (list, tuple)):
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise ConfigError(f"{where} is {value!r}; it must be a list of {len(kinds)}")
        named = [_join(where, _item_name(item, i)) for i, item in enumerate(value)]
        return tuple(map(_decode, kinds, value, named))
    if issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {name: _decode(args[1], item, _join(where, name)) for name, item in value.items()}
    of_texts = issubclass(origin, tuple) and (args[0] is str or get_origin(args[0]) is Literal)
    said = f"a list of texts, as in {json.dumps([str(value)])}" if of_texts else _describe(origin)
    raise ConfigError(f"{where} is {value!r}; it must be {said}")


def _decode_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and is_number and math.isfinite(value):
        return float(value)
    if kind is not float and isinstance(value, kind) and (is_number or kind is not int):
        return value
    raise ConfigError(f"{where} is {value!r}; it must be {_describe(kind)}")


def _decode_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    *others, last = [kind for kind in args if kind is not type(None)]
    for kind in others:
        with suppress(ConfigError):
            return _decode(kind, value, where)
    return _decode(last, value, where)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; it must be {_describe(kind)}")
    hints, names = _hints(kind), [f.name for f in fields(kind)]
    for name in value:
        if name not in names:
            raise ConfigError(unknown(_join(where, ""), str(name), names))
    for f in fields(kind):
        if f.name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{_join(where, f.name)} is missing")
    decoded = {name: _decode(hints[name], item, _join(where, name)) for name, item in value.items()}
    try:
        return kind(**decoded)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _item_name(item: Any, position: int) -> str:
    return str(item["name"]) if isinstance(item, Mapping) and "name" in item else str(position)


def _describe(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    if kind in words:
        return words[kind]
    if kind is tuple:
        return "a list, as in [1, 2]"
    return "a group of values: set one of those below it by its dotted name"


def require(value: float, name: str, *, at_least: float) -> None:
    """Refuse a `value` below `at_least`; a dataclass says so of its field `name` in `__post_init__`.

    Raises:
        ConfigError: it is below.
    """
    if value < at_least:
        raise ConfigError(f"{name} is {value}; it must be at least {at_least}")


def nearest(name: str, names: list[str]) -> str:
    """`Did you mean ...? ` when one of `names` is near, else nothing."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}? " if near else ""


def unknown(prefix: str, name: str, names: list[str], deeper: Sequence[str] = ()) -> str:
    """The message for a name that is not one of `names`.

    Args:
        deeper: dotted names that lie below some of them, and end as what was typed does.
    """
    hint = f"Did you mean {alternatives(deeper)}? " if deeper else nearest(name, names)
    return f"there is no {prefix}{name}. {hint}There are: {', '.join(names) or 'none'}."


def alternatives(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def names_ending(value: object, end: str, prefix: str = "") -> list[str]:
    """The dotted names in a plain `value` that end with the parts of `end`: of those that lie least deep the first few.

    Of things in a list each is named by its `name`.
    """
    found = [name for name in _names(value, prefix) if f".{name}".endswith(f".{end}")]
    return sorted(found, key=lambda name: name.count("."))[:MOST_NAMES]


def _names(value: object, prefix: str) -> Iterator[str]:
    if isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value):
        value = {item["name"]: item for item in value}
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield f"{prefix}{name}"
            yield from _names(item, f"{prefix}{name}.")


def change(value: T, settings: Mapping[str, str], unsaid: str = "") -> T:
    """`value` with each leaf that a dotted name of `settings` names set to its text, read as JSON or else as it is.

    All are set before anything is checked, so that values which must fit each other can be changed together.

    Args:
        unsaid: how names may begin that are typed without it, so that no message says it.

    Raises:
        ConfigError: no such name (says which there are, and the nearest), or a value of the wrong type or range.
    """
    tree = plain(value)
    for dotted, text in settings.items():
        *groups, leaf = dotted.split(".")
        node, prefix = tree, ""
        for depth, name in enumerate(groups):
            node, prefix = node[_place(node, [*groups[depth:], leaf], prefix.removeprefix(unsaid))], f"{prefix}{name}."
        place, new = _place(node, [leaf], prefix.removeprefix(unsaid)), _read(text)
        node[place] = _named(new, leaf, dotted.removeprefix(unsaid)) if isinstance(node, list) else new
    try:
        return from_plain(type(value), tree)
    except ConfigError as error:
        raise ConfigError(re.sub(f"^(there is no )?{re.escape(unsaid)}", r"\1", str(error))) from None


def _named(value: Any, name: str, where: str) -> Any:
    """A new value of what a list has of that name."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; it must be {_describe(Mapping)}")
    return {"name": name, **value}


def pairs_of(settings: Sequence[str], option: str, example: str) -> list[tuple[str, str]]:
    """(name, text) of each setting, as they are typed: NAME=VALUE.

    Args:
        option: behind which they are typed, and `example` what that would be, for the message.

    Raises:
        ConfigError: one has no `=`.
    """
    pairs: list[tuple[str, str]] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{option} {setting}: it must read NAME=VALUE, as in {example}")
        pairs.append((name, text))
    return pairs


def _place(node: Any, parts: Sequence[str], prefix: str) -> Any:
    """The index of what the first of `parts` names below a plain value. Things in a list are named by their `name`."""
    name = parts[0]
    if isinstance(node, list) and all(isinstance(item, dict) and "name" in item for item in node):
        places = {item["name"]: place for place, item in enumerate(node)}
    elif isinstance(node, dict):
        places = {key: key for key in node}
    else:
        raise ConfigError(
            f"{prefix.removesuffix('.')} is {node!r}, which holds no names, so there is no {prefix}{name}"
        )
    if name not in places:
        raise ConfigError(unknown(prefix, name, list(places), names_ending(node, ".".join(parts), prefix)))
    return places[name]


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
