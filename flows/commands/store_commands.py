"""The commands that tell of what was built, and look after it: why, lineage, store, promote and rollback."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from flows.choosing.choice import Choice, prepare
from flows.commands.options import add_choice, add_home, choice_of
from flows.home import check_writable, tracking_uri
from flows.output import is_read
from flows.statuses import DONE, FAILED
from tasks.build import Store
from tasks.storing.inventory import ArtifactInventory, for_machines
from tasks.storing.lineage import Link
from tasks.storing.records import Records
from tinygptv_core.plain import ConfigError

if TYPE_CHECKING:
    from tasks.storing.remote import Moved

LEFT_DAYS = 7.0
"""How long what a run left that did not end waits to be gone on with."""
MODEL = "models:/tinygptv@champion, tinygptv/3, or the beginning of a checkpoint's digest"


def add_parsers(commands: Any) -> None:
    """Their grammar, below `commands`."""
    why = commands.add_parser("why", help="explain why a step is built or reused, and what differs from its last build")
    why.set_defaults(act=_why)
    why.add_argument("step", metavar="STEP", help="stage3/train, or stage3 for all its steps")
    why.add_argument("--json", action="store_true", help="print [{step, action, why, changes, ...}] as JSON")
    lineage = commands.add_parser(
        "lineage", help="show what a model came from; with --url or --removal-list, what used those images"
    )
    lineage.set_defaults(act=_lineage)
    lineage.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    lineage.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="U",
        dest="urls",
        help="show what used this image; may be repeated",
    )
    lineage.add_argument(
        "--urls", action="store_true", dest="all_urls", help="print every URL behind MODEL, one per line"
    )
    lineage.add_argument("--json", action="store_true", help="print JSON; with --urls, one JSON object per line")
    for command in (why, lineage):
        add_choice(command)
    _add_store(commands.add_parser("store", help="list, verify, clean, push and pull the artifacts in the home"))
    promote = commands.add_parser("promote", help="make a version the champion; compares it with the previous one")
    promote.set_defaults(act=_promote)
    promote.add_argument("model", metavar="MODEL", help="models:/tinygptv@challenger or tinygptv/3")
    rollback = commands.add_parser("rollback", help="undo the last promotion")
    rollback.set_defaults(act=_rollback)
    rollback.add_argument(
        "--model",
        default="tinygptv",
        metavar="NAME",
        help="the model whose last promotion is undone (default: tinygptv)",
    )
    for command in (promote, rollback):
        command.add_argument(
            "--because", default="", metavar="TEXT", help="the reason; recorded with the user and the time"
        )
        add_home(command)


def _add_store(store: argparse.ArgumentParser) -> None:
    ways = store.add_subparsers(dest="way", required=True, metavar="list|verify|clean|push|pull")
    shown = ways.add_parser(
        "list", help="list every artifact: the step that made it, when, its size, and what needs it"
    )
    shown.set_defaults(act=_list)
    shown.add_argument("--json", action="store_true", help="print JSON")
    verify = ways.add_parser("verify", help="hash every file; exits with 1 and lists what is damaged, if anything is")
    verify.set_defaults(act=_verify)
    clean = ways.add_parser("clean", help="remove what no registered version and no preset's newest run needs")
    clean.set_defaults(act=_clean)
    clean.add_argument("--yes", action="store_true", help="remove; without this it only lists")
    clean.add_argument(
        "--keep-data", action=argparse.BooleanOptionalAction, default=True,
        help="keep the data that registered versions were trained on (default: yes)",
    )  # fmt: skip
    clean.add_argument(
        "--days", type=_days, default=LEFT_DAYS, metavar="N",
        help="keep the artifacts of an unfinished run for N days, so that it can continue (default: 7)",
    )  # fmt: skip
    clean.add_argument(
        "--unregistered", action="store_true",
        help="also remove models that are not (or no longer) in the registry; make sure that it is the right registry",
    )  # fmt: skip
    push = ways.add_parser("push", help="copy artifacts, and what they were made from, to another file system")
    pull = ways.add_parser("pull", help="copy pushed artifacts here; every byte is hashed")
    for command, move in ((push, _push), (pull, _pull)):
        command.set_defaults(act=move)
        command.add_argument(
            "url", metavar="URL", help="s3://BUCKET/FOLDER, or any other URL that fsspec reads and writes"
        )
        command.add_argument(
            "digests", nargs="*", metavar="DIGEST", help="the beginning of an artifact's digest (default: all of them)"
        )
    for command in (shown, verify, clean, push, pull):
        add_home(command)


def _why(options: argparse.Namespace) -> int:
    from flows.commands.why import explain, for_machines, in_words

    found = explain(prepare(choice_of(options), writes=False), options.step)
    print(_json([for_machines(item) for item in found]) if options.json else "\n\n".join(map(in_words, found)))
    return DONE


def _lineage(options: argparse.Namespace) -> int:
    from flows.commands import lineage_report, trace_report
    from tasks.storing.ledgers import gone

    home = options.home
    store, uri = Store(home / "store"), tracking_uri(home)
    if options.model is None or options.urls or options.removal_list:
        tracked = trace_report.trace_pictures(
            _asking(choice_of(options), options.urls, options.model), options.urls, uri, store
        )
        # Thousands of rows: indented they would take most of the time.
        print(json.dumps(trace_report.for_machines(tracked)) if options.json else trace_report.in_words(tracked))
        return DONE
    title, links = lineage_report.lineage_of(options.model, store, uri)
    if options.all_urls:
        return _print_urls(lineage_report.url_lines(links, options.json), gone(links))
    if options.json:
        print(_json({"model": title, "links": [lineage_report.for_machines(link) for link in links]}))
    else:
        print(lineage_report.in_words(title, links))
    return DONE


def _promote(options: argparse.Namespace) -> int:
    from tasks.promote import in_words, promote

    home = options.home
    event = promote(tracking_uri(home), options.model, options.because, Records(Store(home / "store")))
    name = re.split("[/@]", options.model.removeprefix("models:/"))[0]
    print(in_words(name, event) if event else f"{options.model} is the champion already; nothing was changed")
    return DONE


def _rollback(options: argparse.Namespace) -> int:
    from tasks.promote import in_words, rollback

    print(in_words(options.model, rollback(tracking_uri(options.home), options.model, options.because)))
    return DONE


def _list(options: argparse.Namespace) -> int:
    from flows.commands import store_report

    found = _kept(options)
    print(
        _json([for_machines(item) for item in found.artifacts])
        if options.json
        else "\n".join(store_report.listed(found))
    )
    return DONE


def _days(text: str) -> float:
    """What `--days` is given."""
    found = float(text)
    if not found >= 0:  # which is no number either
        raise argparse.ArgumentTypeError(f"{text}: it must be at least 0")
    return found


_days.__name__ = "number of days"  # which argparse names where the text is none


def _verify(options: argparse.Namespace) -> int:
    from flows.commands import store_report

    found = _kept(options)
    damaged = list(store_report.verified(found))
    print("\n".join(damaged) or f"{len(found.artifacts)} artifacts are as they were sealed")
    if told := store_report.gone(found):
        print(told)
    return FAILED if damaged else DONE


def _clean(options: argparse.Namespace) -> int:
    from flows.commands import store_report

    if options.yes:
        store_report.check_store(options.home)
        check_writable(options.home)
    with store_report.unused(options.home) if options.yes else nullcontext():  # first: what is known of it must stay so
        found = _kept(options, keep_data=options.keep_data, days=options.days, unregistered=options.unregistered)
        for line in store_report.swept(found, really=options.yes):
            print(line)
    return DONE


def _kept(
    options: argparse.Namespace, *, keep_data: bool = True, days: float = LEFT_DAYS, unregistered: bool = False
) -> ArtifactInventory:
    from flows.commands.store_report import inventory

    uri = tracking_uri(options.home)
    return inventory(options.home, uri, keep_data=keep_data, days=days, unregistered=unregistered)


def _push(options: argparse.Namespace) -> int:
    from flows.commands.store_report import check_store
    from tasks.storing.remote import push

    check_store(options.home)
    return _move(push, options)


def _pull(options: argparse.Namespace) -> int:
    from tasks.storing.remote import pull

    return _move(pull, options)


def _move(move: "Callable[..., Moved]", options: argparse.Namespace) -> int:
    from tasks.storing.remote import in_words

    moved = move(Store(options.home / "store"), options.url, options.digests, print)
    print(in_words(moved, options.url))
    return DONE


def _asking(choice: Choice, urls: Sequence[str], model: str | None) -> Choice:
    """The choice, if it asks for images.

    Raises:
        ConfigError: it names none, or a model as well.
    """
    if model:
        raise ConfigError(f"lineage of {model}, or of images? With --url and --removal-list no model is named")
    if choice.removal_list or urls:
        return choice
    raise ConfigError(f"lineage of what? Name a model ({MODEL}), or images with --url U or --removal-list FILE")


def _print_urls(lines: Iterator[str], gone: Sequence[Link]) -> int:
    for line in lines:
        print(line)
        if not is_read():  # there may be millions more
            break
    for link in gone:
        print(f"tinygptv: the ledger of {link.step} {link.digest} is not on this home", file=sys.stderr)
    return DONE


def _json(value: object) -> str:
    return json.dumps(value, indent=1)
