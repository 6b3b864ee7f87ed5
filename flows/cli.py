"""The command `tinygptv`. What can be typed is in `grammar.py`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from flows.grammar import parser
from flows.options import FAILED, MISTAKE
from tasks.build import DamagedError
from tasks.shortages import has_no_room, what_is_full
from tinygptv_core.plain import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the run failed, 2 the user's mistake, with one message."""
    options = parser().parse_args(argv)
    try:
        return options.act(options)
    except (ConfigError, OSError) as error:  # the latter: what may not be read, a folder in the place of a file, ...
        full = what_is_full(error, [getattr(options, "home", Path.cwd())]) if has_no_room(error) else None
        print(f"tinygptv: {f'{full}; the same command goes on from here' if full else error}", file=sys.stderr)
        return FAILED if full else MISTAKE
    except DamagedError as error:
        print(f"tinygptv: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("tinygptv: stopped. The same command goes on from here.", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
