"""Where an item of a JSON array ends that is no JSON, so that those after it can be read."""

import re
from collections import Counter

_STRING_OR_MARK = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_SEAM = re.compile(r'\}[ \t\n\r]*,[ \t\n\r]*\{[ \t\n\r]*"\Z')
_LAST = re.compile(r"\}[ \t\n\r]*\][ \t\n\r]*\Z")
_OBJECT = re.compile(r'[ \t\n\r]*\{[ \t\n\r]*["}]')
_CLOSING = re.compile(r"\][ \t\n\r]*\Z")
_OPENING = {"}": "{", "]": "["}


def broken_end(text: str, begin: int, is_all: bool) -> int | None:
    """Where the item that begins at `begin` ends: before a comma or the array's `]`; None if that is not in `text`.

    That is where its brackets are closed. Two kinds of mistakes hide this, and are known by what cannot be otherwise: a
    quote too many or too few turns strings inside out, so that what stands between two records ends a string; a
    bracket too few leaves an object where a name should be.

    Args:
        is_all: nothing comes after `text`.
    """
    unclosed = _Unclosed()
    for token in _STRING_OR_MARK.finditer(text, begin):
        mark, at = token.group(), token.start()
        if mark == '"':  # its string does not end in `text`
            last = _LAST.search(text, at) if is_all else None
            return last and last.start() + 1
        if seam := _SEAM.search(mark):
            return at + seam.start() + 1
        if _is_between(text, at, unclosed) or (is_all and _is_last(text, at, unclosed)):
            return at
        unclosed.take(mark)
    return None


class _Unclosed:
    """The brackets that are open, the innermost last, and how many of each kind."""

    def __init__(self) -> None:
        self.brackets: list[str] = []
        self.count = Counter[str]()

    def take(self, mark: str) -> None:
        """Take in a bracket; one that closes also closes what is open within."""
        if mark in _OPENING.values():
            self.brackets.append(mark)
            self.count[mark] += 1
        elif self.count[_OPENING.get(mark, "")]:
            while self._closed() != _OPENING[mark]:
                pass

    def _closed(self) -> str:
        bracket = self.brackets.pop()
        self.count[bracket] -= 1
        return bracket


def _is_between(text: str, at: int, unclosed: _Unclosed) -> bool:
    is_in_object = unclosed.brackets[-1:] == ["{"]
    return text[at] == "," and (not unclosed.brackets or (is_in_object and _OBJECT.match(text, at + 1) is not None))


def _is_last(text: str, at: int, unclosed: _Unclosed) -> bool:
    return _CLOSING.match(text, at) is not None and not unclosed.count["["]
