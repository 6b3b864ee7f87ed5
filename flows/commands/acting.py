"""What was typed, done; or one message of why it could not be."""

import sys
from collections.abc import Sequence
from pathlib import Path

from flows.commands.grammar import parser
from flows.home import check_folder
from flows.statuses import FAILED, MISTAKE
from tasks.sealed import DamagedError
from tasks.shortages import has_no_room, what_is_full
from tinygptv_core.plain import ConfigError


def act(argv: Sequence[str] | None) -> int:
    """The exit status, as `flows.cli.main` says."""
    options = parser().parse_args(argv)
    try:
        if "home" in options:
            check_folder(options.home)
        status = options.act(options)
        sys.stdout.flush()
        return status
    except (ConfigError, OSError) as error:  # the latter: what may not be read, a folder in the place of a file, ...
        full = what_is_full(error, [getattr(options, "home", Path.cwd())]) if has_no_room(error) else None
        print(f"tinygptv: {f'{full}; the same command goes on from here' if full else _said(error)}", file=sys.stderr)
        return FAILED if full else MISTAKE
    except DamagedError as error:
        print(f"tinygptv: {error}", file=sys.stderr)
        return FAILED


def _said(error: Exception) -> str:
    """What a person reads of a mistake; of what nobody found before the system refused it, what helps as well."""
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.strerror}: '{error.filename}'\n  let this user read and write there, or name another place"
    return str(error)
