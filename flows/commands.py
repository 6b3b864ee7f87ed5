"""The commands that tell of what was built, and look after it: why, lineage, store, promote and rollback."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from flows.choice import Choice, prepare

DONE, FAILED = 0, 1

Add = Callable[[argparse.ArgumentParser], None]
Command = Callable[[argparse.Namespace], int]
Choose = Callable[[argparse.Namespace, str | None], Choice]


def add_parsers(commands: Any, add_choice: Add, add_home: Add) -> None:
    """Their grammar, below `commands`.

    Args:
        add_choice: adds the options that say what a run builds.
        add_home: adds `--home` alone.
    """
    why = commands.add_parser("why", help="why a step is built or reused, and what differs from its last build")
    why.add_argument("step", metavar="STEP", help="stage3/train, or all of stage3")
    add_choice(why)
    why.add_argument("--json", action="store_true", help="print [{step, action, why, changes, ...}] for machines")


def commands(choose: Choose) -> Mapping[str, Command]:
    """What each of them does; `choose` makes a run's choice of the options, up to a step."""

    def why(options: argparse.Namespace) -> int:
        from flows.why import explain, for_machines, in_words

        found = explain(prepare(choose(options, options.step), writes=False), options.step)
        print(_json([for_machines(item) for item in found]) if options.json else "\n\n".join(map(in_words, found)))
        return DONE

    return {"why": why}


def _json(value: object) -> str:
    return json.dumps(value, indent=1)
