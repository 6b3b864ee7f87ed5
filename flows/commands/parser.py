"""A parser of arguments that says what may have been meant."""

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

from flows.statuses import MISTAKE
from tinygptv_core.plain import nearest

WRONG_CHOICE = re.compile(r"invalid choice: '(?P<typed>.*)' \(choose from (?P<choices>.*)\)")
"""As argparse says it."""
CHOICE = re.compile(r"[\w.-]+")
EMPTY_OPTION = re.compile(r"--[\w-]+=")


class HintingParser(argparse.ArgumentParser):
    """argparse's, which also names the option or choice that is nearest to a misspelled one, and refuses what is empty.

    The parsers of its commands are of this class, too, and refuse what they do not know themselves: the whole would
    say so with the options of none of them.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]  # one for all overloads
        """As argparse does, but everything must be known.

        Raises:
            SystemExit: something is not, or an argument is empty; or no command is named: the help is printed.
        """
        given: list[str] = sys.argv[1:] if args is None else list(args)
        if not given and self._subparsers is not None:
            self.print_help(sys.stderr)
            self.exit(MISTAKE)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        for before, word in pairwise(["", *given]):
            if not word:
                self.error(f"argument {before}: it is empty" if before.startswith("--") else "an argument is empty")
            if EMPTY_OPTION.fullmatch(word):
                self.error(f"argument {word.removesuffix('=')}: it is empty")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and `message`, with the choice that may have been meant, and end with status 2."""
        wrong = WRONG_CHOICE.search(message)
        super().error(message + (_hint(wrong["typed"], CHOICE.findall(wrong["choices"])) if wrong else ""))

    def _meant(self, unknown: Sequence[str]) -> str:
        typed = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        return _hint(typed, [name for action in self._actions for name in action.option_strings])


def _hint(typed: str, names: list[str]) -> str:
    near = nearest(typed, names).rstrip()
    return f". {near}" if near else ""
