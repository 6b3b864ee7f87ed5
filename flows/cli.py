"""The command `tinygptv`: what it does. What can be typed is in `grammar.py`."""

import argparse
import json
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flows import commands as keeping
from flows import presets, register_options, scoring, weights
from flows.choice import Choice, check_writable, prepare, tracking_uri
from flows.foreseen import for_machines, what_it_takes
from flows.grammar import parser
from flows.place import import_ahead
from flows.plan import lacking_files, probed
from flows.server import start_prefect_server
from flows.terminal import say
from flows.train import backbones_step
from flows.up import UpOptions, run_up
from flows.who_is_up import use_up
from tasks.build import DamagedError, Store
from tasks.lease import myself
from tasks.shortages import LESS_MEMORY, has_no_room, what_is_full
from tasks.typed_paths import typed_path
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import PRESETS
from tinygptv_core.shortage import has_no_memory

DONE, FAILED, MISTAKE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the run failed, 2 the user's mistake, with one message."""
    options = parser().parse_args(argv)
    try:
        return COMMANDS[options.command](options)
    except (ConfigError, OSError) as error:  # the latter: what may not be read, a folder in the place of a file, ...
        full = what_is_full(error, [options.home]) if has_no_room(error) else None
        print(f"tinygptv: {f'{full}; the same command goes on from here' if full else error}", file=sys.stderr)
        return FAILED if full else MISTAKE
    except DamagedError as error:
        print(f"tinygptv: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("tinygptv: stopped. The same command goes on from here.", file=sys.stderr)
        return FAILED


def _choice(options: argparse.Namespace, until: tuple[str, ...] = ()) -> Choice:
    return Choice(
        preset=options.preset,
        settings=tuple(options.settings),
        only=getattr(options, "only", None),
        start_from=getattr(options, "start_from", None),
        until=until,
        list_file=options.list_file,
        removal_list=options.removal_list,
        instruct=options.instruct,
        images=options.images,
        data=options.data,
        allow_hosts=tuple(options.allow_hosts),
        home=options.home,
        ray_address=options.ray_address,
        init=options.init,
        options=tuple(options.options),
        promote=register_options.promote_of(options),
        bundle=register_options.bundle_of(options),
    )


def _plan(options: argparse.Namespace) -> int:
    prepared = prepare(_choice(options), writes=False)
    planned = prepared.planned
    if options.probe:
        planned = probed(prepared.selection, planned, say)
    if options.json:
        print(json.dumps([for_machines(item) for item in planned], indent=1))
        return DONE
    for item in planned:
        print(f"{item.action:6s} {item.step:28s} {item.why.partition(chr(10))[0]}")
        for told in what_it_takes(item):
            print(f"       {item.step:28s} {told}")
    builds = sum(item.action == "build" for item in planned)
    print(f"{builds} to build, {len(planned) - builds} to reuse")
    if lacking := lacking_files(prepared.selection):
        print(f"\n{lacking}")
    return DONE


def _presets(options: argparse.Namespace) -> int:
    print(presets.described(PRESETS.values()))
    return DONE


def _run(options: argparse.Namespace) -> int:
    return _walk(_choice(options))


def _data(options: argparse.Namespace) -> int:
    return _walk(_choice(options, until=(f"{options.name}/screen",)))


def _train(options: argparse.Namespace) -> int:
    return _walk(_choice(options, until=(f"{options.stage}/train",)))


def _walk(choice: Choice) -> int:
    """Prepare (so that mistakes cost nothing), then run the flow; the last line printed is the report's path."""
    planned = prepare(choice, writes=True).planned
    builds = [item.step for item in planned if item.action == "build"]
    # A machine that is taken away says so by SIGTERM: what there is to save is saved then, as at Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    use_up(choice.home)
    try:
        wait_for_server = start_prefect_server(choice.home)
        from flows.walk import run_pipeline

        import_ahead(choice.ray_address, builds)  # while the server starts
        wait_for_server()
        report = run_pipeline(choice, asdict(myself()))
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever failed, a person gets a message and the place of the details
        return _failed(choice, error)
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
    print(f"tinygptv: the run failed: {why}\n  {details}\n  the same command goes on from here", file=sys.stderr)
    return FAILED


def _up(options: argparse.Namespace) -> int:
    check_writable(options.home)
    try:
        run_up(
            UpOptions(
                home=options.home,
                port=options.port,
                mlflow_port=options.mlflow_port,
                runs=options.runs,
                trainings=options.trainings,
                prefect_database=options.prefect_database,
                mlflow_database=options.mlflow_database,
                notify=options.notify,
            )
        )
    except RuntimeError as error:
        print(f"tinygptv: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _ask(options: argparse.Namespace) -> int:
    from tasks.ask import Manner, ask

    manner = Manner(
        most_tokens=options.most_tokens,
        beams=options.beams,
        repetition_penalty=options.repetition_penalty,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    uri = tracking_uri(options.home)
    print(ask(options.model, Path(options.image), options.question, uri, options.low_resource, manner))
    return DONE


def _weights(options: argparse.Namespace) -> int:
    if options.way == "export":
        return _export(options)
    check_writable(options.home)
    store = Store(options.home / "store")
    store.root.mkdir(exist_ok=True)
    if options.kind == "backbones":
        paths = {role: getattr(options, role) for role in ("vision", "qformer", "llm")}
        requests = (backbones_step(weights.backbones_to_import(options.preset, paths, options.settings), store),)
    elif options.kind == "checkpoint":
        file = typed_path(options.file)
        requests = (weights.checkpoint_request(options.preset, options.stage, options.settings, file, store),)
    else:
        requests = weights.model_requests(typed_path(options.folder), store)
    for request in requests:
        print(weights.words(weights.build(request, store), store))
    return DONE


def _export(options: argparse.Namespace) -> int:
    from tasks.weights import Export, export

    out = typed_path(options.out)
    wanted = Export(model=options.model, backbones=options.backbones, to=options.to, out=out)
    export(wanted, Store(options.home / "store"), tracking_uri(options.home))
    print(out)
    return DONE


COMMANDS = {
    "run": _run,
    "plan": _plan,
    "presets": _presets,
    "data": _data,
    "train": _train,
    "up": _up,
    "ask": _ask,
    "eval": scoring.evaluate,
    "demo": scoring.demo,
    "weights": _weights,
    **keeping.commands(_choice),
}

if __name__ == "__main__":
    sys.exit(main())
