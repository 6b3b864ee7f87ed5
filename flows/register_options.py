"""The options that say how a run registers its model."""

import argparse
from typing import get_args

from flows.choice import DEFAULT_RULE
from tasks.promote import Rule


def add_options(command: argparse.ArgumentParser) -> None:
    """`--promote` and `--bundle`."""
    command.add_argument(
        "--promote", choices=get_args(Rule), default=DEFAULT_RULE,
        help="when the run's version becomes the champion: never; first: where there is none; better: or where its "
        "mean score, on the same questions, is lower on no evaluation and higher on one, which may be chance "
        "(default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--bundle", action="store_true", help="register a copy of the frozen backbones, too, not only where they lie"
    )


def promote_of(options: argparse.Namespace) -> Rule:
    """What `--promote` says; the default of a command that registers nothing."""
    return getattr(options, "promote", DEFAULT_RULE)


def bundle_of(options: argparse.Namespace) -> bool:
    """Whether `--bundle` was typed."""
    return getattr(options, "bundle", False)
