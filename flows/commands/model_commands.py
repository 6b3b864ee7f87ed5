"""The commands that try a model: eval, demo and ask."""

import argparse
import json
import os
import threading
from typing import Any

from flows.commands.options import add_home, whole_number
from flows.commands.scoring import StandaloneEnvironment, checkpoint_named, lines_of, score
from flows.home import check_writable, tracking_uri
from flows.serving.ports import MOST_PORT, check_free
from flows.statuses import DONE
from flows.terminal import Terminal, say
from tasks.build import Store
from tasks.register import CHALLENGER, CHAMPION
from tasks.registering.registry import find, versions
from tasks.typed_paths import typed_path
from tinygptv_core.compute import Compute

DEMO_PORT, DEMO_MODEL = 8501, "tinygptv"


def add_parsers(commands: Any) -> None:
    """Their grammar, below `commands`."""
    scoring = commands.add_parser("eval", help="score a model or checkpoint, with controls and intervals")
    scoring.set_defaults(act=_eval)
    scoring.add_argument(
        "model", metavar="MODEL",
        help="models:/tinygptv@champion, tinygptv/3, a folder of the store, or the beginning of a checkpoint's digest",
    )  # fmt: skip
    scoring.add_argument(
        "--eval", action="append", default=[], metavar="NAME", dest="evals",
        help="the name of an evaluation; may be repeated (default: all whose data are in the store)",
    )  # fmt: skip
    scoring.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="the device to compute on (default: %(default)s)"
    )
    scoring.add_argument("--json", action="store_true", help="print the content of scores.json")
    add_home(scoring)
    shown = commands.add_parser("demo", help="serve a local web page: ask several models about your image")
    shown.set_defaults(act=_demo)
    shown.add_argument(
        "models", metavar="MODEL", nargs="*", help="as for `ask` (default: tinygptv's champion and challenger)"
    )
    shown.add_argument(
        "--port", type=whole_number(at_least=0, at_most=MOST_PORT), default=DEMO_PORT, metavar="N",
        help="the port of the page; 0 takes a free one (default: %(default)s)",
    )  # fmt: skip
    add_home(shown)
    ask = commands.add_parser("ask", help="ask a model about an image, on the CPU")
    ask.set_defaults(act=_ask)
    ask.add_argument(
        "model", metavar="MODEL",
        help="models:/tinygptv@challenger, tinygptv/3, or a checkpoint: its folder, or the beginning of its digest",
    )  # fmt: skip
    ask.add_argument("image", type=typed_path, metavar="IMAGE", help="an image file")
    ask.add_argument(
        "question",
        metavar="QUESTION",
        help="in quotes; a question that begins with a task token, such as [caption], is used unchanged",
    )
    ask.add_argument(
        "--low-resource", type=int, choices=(8, 4),
        help="load the large weights in 8 or 4 bits: less memory, and nearly the same answers",
    )  # fmt: skip
    _add_decoding_options(ask)
    add_home(ask)


def _add_decoding_options(ask: argparse.ArgumentParser) -> None:
    decoding_options = ask.add_argument_group(
        "decoding",
        "The default is greedy decoding: the same question gets the same answer.",
    )
    decoding_options.add_argument(
        "--most-tokens", type=int, metavar="N", help="the maximum number of new tokens (default: the model's own)"
    )
    decoding_options.add_argument(
        "--beams", type=int, default=1, metavar="N",
        help="beam search with N beams (default: 1, no beam search)",
    )  # fmt: skip
    decoding_options.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X",
        help="above 1: make tokens that were already generated less likely (default: 1, no penalty)",
    )  # fmt: skip
    decoding_options.add_argument(
        "--temperature", type=float, metavar="T",
        help="sample tokens at this temperature: near 0 almost greedy, 1 the model's own probabilities, above 1 more "
        "random; not with --beams",
    )  # fmt: skip
    decoding_options.add_argument(
        "--top-p", type=float, metavar="P",
        help="nucleus sampling: sample only from the likeliest tokens whose probabilities add up to P (above 0, at "
        "most 1); not with --beams",
    )  # fmt: skip
    decoding_options.add_argument(
        "--seed", type=int, metavar="N",
        help="the random seed of sampling: the same seed gives the same answer (default: 0)",
    )  # fmt: skip


def _eval(options: argparse.Namespace) -> int:
    home = options.home
    check_writable(home)
    store = Store(home / "store")
    where = StandaloneEnvironment(
        compute=Compute(device=options.device, threads=os.cpu_count() or 1), progress=Terminal().progress
    )
    built = score(checkpoint_named(options.model, store, tracking_uri(home)), options.evals, store, where)
    scores = json.loads((built.artifact.path / "scores.json").read_text())
    print(json.dumps(scores, indent=1) if options.json else "\n".join(lines_of(scores)))
    did = "computed" if built.action == "build" else "there already"
    say(f"scores {built.artifact.digest}\n  {did}, in {built.artifact.path}")
    return DONE


def _demo(options: argparse.Namespace) -> int:
    from tasks.ask import in_store, loaded
    from tasks.demo import showing

    check_free("--port", options.port)  # before the models are loaded, which takes a while
    store, uri = Store(options.home / "store"), tracking_uri(options.home)
    models = {name: loaded(in_store(name, store), uri) for name in options.models or _rivals(uri)}
    with showing(models, options.port) as address:
        print(address, flush=True)
        say("Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return DONE
    return DONE


def _rivals(uri: str) -> list[str]:
    """The champion and the challenger, or the one version that is both."""
    there = {alias: version for version in versions(uri, DEMO_MODEL) for alias in version.aliases}
    found = [there[alias] for alias in (CHAMPION, CHALLENGER) if alias in there]
    found = found or [find(uri, f"{DEMO_MODEL}@{CHAMPION}")]  # which says what there is
    return list(dict.fromkeys(f"{version.name}/{version.version}" for version in found))


def _ask(options: argparse.Namespace) -> int:
    from tasks.ask import DecodingOptions, ask, in_store

    decoding_options = DecodingOptions(
        most_tokens=options.most_tokens,
        beams=options.beams,
        repetition_penalty=options.repetition_penalty,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    model, uri = in_store(options.model, Store(options.home / "store")), tracking_uri(options.home)
    print(ask(model, options.image, options.question, uri, options.low_resource, decoding_options))
    return DONE
