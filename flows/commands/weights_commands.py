"""`tinygptv weights`: the ways in and out for weights of others and for others."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from flows.choosing.choice import DEFAULT_PRESET
from flows.commands import weight_transfer
from flows.commands.options import add_home, add_settings
from flows.home import check_writable, tracking_uri
from flows.statuses import DONE
from flows.train import backbones_step
from tasks.build import Store
from tasks.request import Request
from tasks.typed_paths import typed_path
from tinygptv_core.artifact import Artifact

EXAMPLES = """\
examples:
  tinygptv weights import backbones --vision eva_vit_g.pth --qformer blip2_pretrained_flant5xxl.pth --llm phi-2/
  tinygptv weights import backbones --vision blip2-flan-t5-xxl/ --qformer blip2-flan-t5-xxl/ --llm phi-2/
  tinygptv weights import checkpoint TinyGPT-V_for_Stage2.pth --stage stage2 --preset my_run.py:MINE \\
      --set stage2.dialect=published         it was trained with the original's prompt format
  tinygptv run --preset my_run.py:MINE --init stage2=9c41d0b2aa17     start from it: earlier stages are skipped
  tinygptv weights export models:/tinygptv@champion out/ --to hf      a folder in Hugging Face format
  tinygptv weights export 9c41d0b2aa17 TinyGPT-V.pth --to published   the original's file format
  tinygptv weights import model out/                                  the same backbones and checkpoint again
"""


def add_parsers(commands: Any) -> None:
    """Its grammar, below `commands`."""
    brought = commands.add_parser(
        "weights",
        help="import published weights, or export a model",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ways = brought.add_subparsers(dest="way", required=True, metavar="import|export")
    bring = ways.add_parser("import", help="import published weights into the store; every tensor is accounted for")
    kinds = bring.add_subparsers(dest="kind", required=True, metavar="backbones|checkpoint|model")
    backbones = kinds.add_parser("backbones", help="vision tower, Q-Former and language model")
    backbones.set_defaults(act=_import_backbones)
    backbones.add_argument("--vision", metavar="PATH", help="eva_vit_g.pth, or a BLIP-2 folder in Hugging Face format")
    backbones.add_argument(
        "--qformer", metavar="PATH", help="blip2_pretrained_flant5xxl.pth, or a BLIP-2 folder in Hugging Face format"
    )
    backbones.add_argument("--llm", metavar="DIR", help="microsoft/phi-2 (any revision), with its tokenizer.json")
    backbones.add_argument("--preset", help="take sizes, dtype, pins and paths from this preset (default: paper)")
    checkpoint = kinds.add_parser("checkpoint", help="TinyGPT-V_for_StageN.pth")
    checkpoint.set_defaults(act=_import_checkpoint)
    checkpoint.add_argument(
        "file", type=typed_path, metavar="FILE", help="the checkpoint file of that stage, as published"
    )
    checkpoint.add_argument(
        "--stage", required=True, metavar="STAGE", help="the stage that the checkpoint belongs to: stage2"
    )
    checkpoint.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help="the preset with that stage and its backbones; as_published for the authors' files (default: %(default)s)",
    )
    for command in (backbones, checkpoint):
        add_settings(command)
    model = kinds.add_parser("model", help="a folder that `weights export --to hf` wrote")
    model.set_defaults(act=_import_model)
    model.add_argument("folder", type=typed_path, metavar="DIR", help="the folder that it wrote (its OUT)")
    take = ways.add_parser("export", help="write a model to files, for use elsewhere")
    take.set_defaults(act=_export)
    take.add_argument("model", metavar="MODEL", help="as for `ask`, or the beginning of a checkpoint's digest")
    take.add_argument(
        "out", type=typed_path, metavar="OUT", help="a folder (hf) or file (published) that does not exist yet"
    )
    take.add_argument(
        "--to",
        required=True,
        choices=("hf", "published"),
        help="hf: a folder in Hugging Face format; published: one file in the original's format",
    )
    take.add_argument(
        "--backbones", metavar="DIGEST", help="the backbones that it was trained on, if the store does not know"
    )
    for command in (backbones, checkpoint, model, take):
        add_home(command)


def _import_backbones(options: argparse.Namespace) -> int:
    paths = {role: getattr(options, role) for role in ("vision", "qformer", "llm")}
    backbones = weight_transfer.backbones_to_import(options.preset, paths, options.settings)
    after = weight_transfer.run_with_backbones(options.preset, paths, options.settings, options.home)
    with _store(options) as store:
        return _import(store, [backbones_step(backbones, store)], lambda _: after)


def _import_checkpoint(options: argparse.Namespace) -> int:
    asked = (options.preset, options.stage, options.settings, options.file)
    after = partial(weight_transfer.run_with_checkpoint, options.preset)
    with _store(options) as store:
        return _import(store, [weight_transfer.checkpoint_request(*asked, store)], after)


def _import_model(options: argparse.Namespace) -> int:
    with _store(options) as store:
        return _import(store, weight_transfer.model_requests(options.folder, store), weight_transfer.trying)


@contextmanager
def _store(options: argparse.Namespace) -> Iterator[Store]:
    """The home's store, which is there meanwhile, to remember files that were hashed; nothing of it stays empty."""
    check_writable(options.home)
    store = Store(options.home / "store")
    made = [folder for folder in (store.root, *store.root.parents) if not folder.exists()]
    store.root.mkdir(parents=True, exist_ok=True)
    try:
        yield store
    finally:
        with suppress(OSError):  # something was kept there
            for folder in made:
                folder.rmdir()


def _import(store: Store, requests: Sequence[Request], after: Callable[[Artifact], str]) -> int:
    """Import all of `requests`; say of each artifact what it is, and by `after` what to do with it."""
    for request in requests:
        built = weight_transfer.build(request, store)
        print(weight_transfer.words(built, store, after(built.artifact)))
    return DONE


def _export(options: argparse.Namespace) -> int:
    from tasks.weights import Export, export

    wanted = Export(model=options.model, backbones=options.backbones, to=options.to, out=options.out)
    export(wanted, Store(options.home / "store"), tracking_uri(options.home))
    print(options.out)
    return DONE
