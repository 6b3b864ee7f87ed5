"""What can be typed after `tinygptv`, and what `--help` says of it. What a command does stands beside its options."""

import argparse
import sys
from typing import Any

from flows.commands import model_commands, run_commands, store_commands, up_command, weights_commands
from flows.commands.parser import HintingParser
from flows.provenance import commit, version_of
from tasks.storing.differences import short_commit

COMMANDS = (run_commands, up_command, store_commands, model_commands, weights_commands)
"""The modules that have them, in the order in which they are listed."""
EXAMPLES = """\
examples:
  tinygptv run                                       the whole pipeline at toy size (nano), on this machine
  tinygptv plan --set stage3.schedule.peak=2e-5      what this change would build, and why
  tinygptv plan --probe                              ... and how long it will take, from 20 steps of each stage
  tinygptv run --from stage3                         rebuild stage 3 and the steps after it
  tinygptv run --list my.json --allow-host 10.0.0.5  stages 1 and 2 on your own list of URLs
  tinygptv run --instruct my.json --images pictures/ stages 3 and 4 on your own conversations
  tinygptv weights --help                            import published weights, or export a model
  tinygptv ask models:/tinygptv@challenger picture.jpg "what colour is the circle?"
"""


class _Version(argparse.Action):
    """Looked up when it is asked for: that takes longer than all else which is read here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(f"tinygptv {version_of('tinygptv')}, commit {short_commit(commit())}\n")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The command's grammar; `act` of what is parsed is the function that does it."""
    top = HintingParser(
        prog="tinygptv",
        description="From lists of image URLs to a trained, evaluated, registered vision-language model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and the commit")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parsers(commands)
    return top
