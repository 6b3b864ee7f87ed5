"""The commands that build, and those that say beforehand what that would be: run, plan, presets, data and train."""

import argparse
import json
import signal
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.choosing.choice import Choice, prepare
from flows.choosing.fitting import lacking
from flows.choosing.presets import described
from flows.commands.options import add_choice, add_registering, choice_of
from flows.plan import probed
from flows.reporting.foreseen import for_machines, in_all, what_it_takes
from flows.run_environment import import_ahead, wait_for_imports
from flows.serving.server import start_prefect_server
from flows.serving.who_is_up import use_up
from flows.statuses import DONE, FAILED, MISTAKE
from flows.stopping import cut_short_the_end, ending_at_once
from flows.terminal import say
from tasks.lease import myself
from tasks.shortages import LESS_MEMORY, what_is_full
from tasks.train import FailsAgainError
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import PRESETS
from tinygptv_core.shortage import has_no_memory

FAILS_AGAIN = (
    *(FailsAgainError, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError),
    *(TypeError, ValueError, PermissionError, NotADirectoryError, IsADirectoryError),
)
"""What no machine passes by: code that is wrong, a recipe's too, values that do not fit, and what may not be done."""


def add_parsers(commands: Any) -> None:
    """Their grammar, below `commands`."""
    run = commands.add_parser("run", help="build everything that is missing; prints the path of report.json")
    run.set_defaults(act=_run)
    plan = commands.add_parser("plan", help="show what `run` with the same options would build, and why")
    plan.set_defaults(act=_plan)
    presets = commands.add_parser("presets", help="list the presets, their stages, and what they need")
    presets.set_defaults(act=_presets)
    data = commands.add_parser("data", help="build one data set; print what was kept and dropped")
    data.set_defaults(act=_data)
    data.add_argument("name", metavar="NAME", help="a data set, as in `tinygptv data scenes_web`")
    train = commands.add_parser("train", help="train one stage, and build what it needs")
    train.set_defaults(act=_train)
    train.add_argument(
        "stage", metavar="STAGE", help="stage1, stage2, ...: a stage of the preset (`tinygptv presets` lists them)"
    )
    for command in (run, plan, data, train):
        add_choice(command)
    for command in (run, plan):
        command.add_argument(
            "--only", metavar="STEP", help="build this step alone: stage3/train, or stage3 for all its steps"
        )
        command.add_argument(
            "--from", metavar="STEP", dest="start_from", help="rebuild this step and the steps after it"
        )
        add_registering(command)
    plan.add_argument(
        "--json", action="store_true",
        help="print [{step, action, why, hours?, fetch?, train?, vision_cache?}] as JSON",
    )  # fmt: skip
    plan.add_argument(
        "--probe", action="store_true",
        help="train each stage that would be built for 20 steps, if its data are there, to say how long it will take",
    )  # fmt: skip


def _plan(options: argparse.Namespace) -> int:
    prepared = prepare(choice_of(options), writes=False)
    planned = prepared.planned
    if options.probe:
        planned = probed(prepared.selection, planned, say)
    if options.json:
        print(json.dumps([for_machines(item) for item in planned], indent=1))
        return DONE
    if not prepared.environment.store.has_records():
        print(f"nothing is built yet on {options.home}: every step is to be built\n")
    for item in planned:
        print(f"{item.action:6s} {item.step:28s} {item.why.partition(chr(10))[0]}")
        for told in what_it_takes(item):
            print(f"       {item.step:28s} {told}")
    builds = sum(item.action == "build" for item in planned)
    print("; ".join(filter(None, [f"{builds} to build, {len(planned) - builds} to reuse", in_all(planned)])))
    for told in lacking(prepared.preset, prepared.environment, prepared.selection, planned, at_once=True):
        print(f"\n{told}")
    return DONE


def _presets(options: argparse.Namespace) -> int:
    print(described(PRESETS.values()))
    return DONE


def _run(options: argparse.Namespace) -> int:
    return _walk(choice_of(options))


def _data(options: argparse.Namespace) -> int:
    return _walk(choice_of(options, until=(f"{options.name}/screen",)))


def _train(options: argparse.Namespace) -> int:
    return _walk(choice_of(options, until=(f"{options.stage}/train",)))


def _walk(choice: Choice) -> int:
    """Prepare (so that mistakes cost nothing), then run the flow; the last line printed is the report's path."""
    with ending_at_once():
        builds = [item.step for item in prepare(choice, writes=True).planned if item.action == "build"]
        use_up(choice.home)
    try:
        with ending_at_once():
            wait_for_server = start_prefect_server(choice.home)
            from flows.walk import run_pipeline

            import_ahead(choice.ray_address, builds)  # while the server starts
            wait_for_server()
            wait_for_imports()  # in the midst of which an interrupt can leave a lock behind, or a stack trace
        # A machine that is taken away says so by SIGTERM: what there is to save is saved then, as at Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        report = run_pipeline(choice, asdict(myself()))
    except ConfigError:
        cut_short_the_end(MISTAKE)
        raise
    except Exception as error:  # noqa: BLE001 - whatever failed, a person gets a message and the place of the details
        cut_short_the_end(FAILED)
        return _failed(choice, error)
    cut_short_the_end(DONE)
    print(report)
    return DONE


def _failed(choice: Choice, error: Exception) -> int:
    log, told = choice.home / "failed.txt", "".join(traceback.format_exception(error))
    try:
        log.write_text(told)
        details = f"details in {log}"
    except OSError as full:  # a disk that is full is why runs fail, too
        details = f"details could not be written to {log} ({full.strerror})"
    full = what_is_full(error, [log.parent, Path(tempfile.gettempdir())])
    memory = f"memory ran out\n  {LESS_MEMORY}" if has_no_memory(error) and LESS_MEMORY not in str(error) else None
    why = "\n  ".join(text for text in (full, memory, str(error)) if text)
    goes_on = full or memory or not isinstance(error, FAILS_AGAIN)
    then = "goes on from here" if goes_on else "would fail again; what was built stays"
    print(f"tinygptv: the run failed: {why}\n  {details}\n  the same command {then}", file=sys.stderr)
    return FAILED
