"""The command `tinygptv`."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from flows.choice import DEFAULT_PRESET, Choice, default_home, prepare
from flows.place import import_ahead
from flows.settings import settle_prefect
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import PRESETS

DONE, FAILED, MISTAKE = 0, 1, 2

EXAMPLES = """\
examples:
  tinygptv run                                       the whole nano pipeline, on this machine
  tinygptv plan --set stage3.schedule.peak=2e-5      what that change would build, and why
  tinygptv run --from stage3                         stage 3 anew, and what follows from it
  tinygptv run --list my.json --allow-host 10.0.0.5  stages 1 and 2 on your own list of URLs
  tinygptv ask models:/tinygptv@challenger picture.jpg "what colour is the circle?"
"""


def parser() -> argparse.ArgumentParser:
    """The command's grammar."""
    top = argparse.ArgumentParser(
        prog="tinygptv",
        description="From lists of image URLs to a trained, evaluated, registered vision-language model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="build everything that is not there yet; prints the path of report.json")
    plan = commands.add_parser("plan", help="what `run` with the same options would build, and why; builds nothing")
    data = commands.add_parser("data", help="build one data set and print what was kept and dropped")
    data.add_argument("name", metavar="NAME", help="a data set, as in `tinygptv data scenes_web`")
    train = commands.add_parser("train", help="build one stage and what it is made from")
    train.add_argument("stage", metavar="STAGE", help="stage1, stage2, stage3 or stage4")
    for command in (run, plan, data, train):
        _add_choice(command)
    for command in (run, plan):
        command.add_argument("--only", metavar="STEP", help="build this step alone: stage3/train, or all of stage3")
        command.add_argument("--from", metavar="STEP", dest="start_from", help="build this step anew, and what follows")
    plan.add_argument("--json", action="store_true", help="print [{step, action, why}] for machines")
    ask = commands.add_parser("ask", help="ask a registered model about a picture")
    ask.add_argument("model", metavar="MODEL", help="models:/tinygptv@challenger, tinygptv/3, or a checkpoint's folder")
    ask.add_argument("image", metavar="IMAGE", help="a picture file")
    ask.add_argument("question", metavar="QUESTION")
    _add_home(ask)
    return top


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help=f"one of {', '.join(PRESETS)}, or FILE.py:NAME of your own (default: nano)",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="change one value of the preset, as in stage3.schedule.peak=2e-5; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--list", metavar="FILE", dest="list_file",
        help="your own list of pictures (JSON array, JSON lines, CSV, TSV or parquet with columns url and caption) "
        "in place of the pre-training lists",
    )  # fmt: skip
    command.add_argument(
        "--allow-host", action="append", default=[], metavar="H", dest="allow_hosts",
        help="fetch from this host although its address is not public; may be repeated",
    )  # fmt: skip
    command.add_argument("--ray-address", metavar="A", help="a running Ray cluster (default: one on this machine)")
    _add_home(command)


def _add_home(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--home", default=default_home(), metavar="DIR",
        help="where everything is kept (default: $TINYGPTV_HOME, or .tinygptv here)",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the run failed, 2 the user's mistake, with one message."""
    options = parser().parse_args(argv)
    try:
        return COMMANDS[options.command](options)
    except ConfigError as error:
        print(f"tinygptv: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("tinygptv: stopped. The same command goes on from here.", file=sys.stderr)
        return FAILED


def _choice(options: argparse.Namespace, until: str | None = None) -> Choice:
    return Choice(
        preset=options.preset,
        settings=tuple(options.settings),
        only=getattr(options, "only", None),
        start_from=getattr(options, "start_from", None),
        until=until,
        list_file=options.list_file,
        allow_hosts=tuple(options.allow_hosts),
        home=options.home,
        ray_address=options.ray_address,
    )


def _plan(options: argparse.Namespace) -> int:
    planned = prepare(_choice(options), writes=False).planned
    if options.json:
        print(json.dumps([{"step": item.step, "action": item.action, "why": item.why} for item in planned], indent=1))
        return DONE
    for item in planned:
        print(f"{item.action:6s} {item.step:28s} {item.why}")
    builds = sum(item.action == "build" for item in planned)
    print(f"{builds} to build, {len(planned) - builds} to reuse")
    return DONE


def _run(options: argparse.Namespace) -> int:
    return _walk(_choice(options))


def _data(options: argparse.Namespace) -> int:
    return _walk(_choice(options, until=f"{options.name}/screen"))


def _train(options: argparse.Namespace) -> int:
    return _walk(_choice(options, until=f"{options.stage}/train"))


def _walk(choice: Choice) -> int:
    """Prepare (so that mistakes cost nothing), then run the flow; the last line printed is the report's path."""
    planned = prepare(choice, writes=True).planned
    settle_prefect(Path(choice.home).expanduser().absolute())
    from flows.walk import run_pipeline

    if any(item.action == "build" and item.step.endswith("/train") for item in planned):
        import_ahead(choice.ray_address)  # while Prefect's server starts

    try:
        report = run_pipeline(choice)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever failed, a person gets a message and the place of the details
        return _failed(choice, error)
    print(report)
    return DONE


def _failed(choice: Choice, error: Exception) -> int:
    log = Path(choice.home).expanduser().absolute() / "failed.txt"
    log.write_text("".join(traceback.format_exception(error)))
    print(
        f"tinygptv: the run failed: {error}\n  details in {log}\n  the same command goes on from here", file=sys.stderr
    )
    return FAILED


def _ask(options: argparse.Namespace) -> int:
    from tasks.ask import ask

    home = Path(options.home).expanduser().absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    print(ask(options.model, Path(options.image), options.question, uri))
    return DONE


COMMANDS = {"run": _run, "plan": _plan, "data": _data, "train": _train, "ask": _ask}

if __name__ == "__main__":
    sys.exit(main())
