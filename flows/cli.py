"""The command `tinygptv`. What can be typed is in `commands/grammar.py`."""

import sys
from collections.abc import Sequence

from flows.output import outlast_readers
from flows.statuses import FAILED
from flows.stopping import STOPPED, cut_short_the_end, ending_at_once


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the run failed or was stopped, 2 the user's mistake, with one message."""
    outlast_readers()
    with ending_at_once():
        from flows.commands.acting import act
    try:
        return act(argv)
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        cut_short_the_end(FAILED)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
