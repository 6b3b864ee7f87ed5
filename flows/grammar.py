"""What can be typed after `tinygptv`, and what `--help` says of it."""

import argparse
import os

from flows import commands as keeping
from flows import register_options, scoring
from flows.choice import DEFAULT_PRESET, default_data, default_home
from flows.up import MLFLOW_PORT, PREFECT_PORT
from tasks.typed_paths import typed_path

EXAMPLES = """\
examples:
  tinygptv run                                       the whole nano pipeline, on this machine
  tinygptv plan --set stage3.schedule.peak=2e-5      what that change would build, and why
  tinygptv plan --probe                              ... after 20 steps of each stage, how long it will take
  tinygptv run --from stage3                         stage 3 anew, and what follows from it
  tinygptv run --list my.json --allow-host 10.0.0.5  stages 1 and 2 on your own list of URLs
  tinygptv run --instruct my.json --images pictures/ the instruction stages on your own talks
  tinygptv weights --help                            published weights, to bring them and to write them
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
    commands.add_parser("presets", help="what can be run: each preset, its stages, and what it needs")
    data = commands.add_parser("data", help="build one data set and print what was kept and dropped")
    data.add_argument("name", metavar="NAME", help="a data set, as in `tinygptv data scenes_web`")
    train = commands.add_parser("train", help="build one stage and what it is made from")
    train.add_argument("stage", metavar="STAGE", help="stage1, stage2, ...: a stage of the preset (`tinygptv presets`)")
    for command in (run, plan, data, train):
        _add_choice(command)
    for command in (run, plan):
        command.add_argument("--only", metavar="STEP", help="build this step alone: stage3/train, or all of stage3")
        command.add_argument("--from", metavar="STEP", dest="start_from", help="build this step anew, and what follows")
        register_options.add_options(command)
    plan.add_argument("--json", action="store_true", help="print [{step, action, why, fetch?, train?}] for machines")
    plan.add_argument(
        "--probe", action="store_true",
        help="try each stage that is to be built for 20 steps, where its data are there, to say how long it will take",
    )  # fmt: skip
    up = commands.add_parser("up", help="Prefect's and MLflow's pages, and the worker that runs what is started there")
    _add_up(up)
    keeping.add_parsers(commands, _add_choice, _add_home)
    scoring.add_parsers(commands, _add_home)
    ask = commands.add_parser("ask", help="ask a registered model about a picture; computed on the CPU")
    ask.add_argument("model", metavar="MODEL", help="models:/tinygptv@challenger, tinygptv/3, or a checkpoint's folder")
    ask.add_argument("image", metavar="IMAGE", help="a picture file")
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument(
        "--low-resource", type=int, choices=(8, 4),
        help="hold the large weights in 8 or 4 bit: little memory, and nearly the same answers",
    )  # fmt: skip
    _add_manner(ask)
    _add_home(ask)
    brought = commands.add_parser(
        "weights",
        help="bring weights from elsewhere, or make files for others",
        epilog=WEIGHTS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_weights(brought)
    return top


WEIGHTS_EXAMPLES = """\
examples:
  tinygptv weights import backbones --vision eva_vit_g.pth --qformer blip2_pretrained_flant5xxl.pth --llm phi-2/
  tinygptv weights import backbones --vision blip2-flan-t5-xxl/ --qformer blip2-flan-t5-xxl/ --llm phi-2/
  tinygptv weights import checkpoint TinyGPT-V_for_Stage2.pth --stage stage2 --preset my_run.py:MINE \\
      --set stage2.dialect=published         it was trained in the original's spelling of prompts
  tinygptv run --preset my_run.py:MINE --init stage2=9c41d0b2aa17     go on from it: no stage before it is trained
  tinygptv weights export models:/tinygptv@champion out/ --to hf      a folder as Hugging Face has it
  tinygptv weights export 9c41d0b2aa17 TinyGPT-V.pth --to published   the original's own layout
  tinygptv weights import model out/                                  the same backbones and checkpoint again
"""


def _add_weights(weights: argparse.ArgumentParser) -> None:
    ways = weights.add_subparsers(dest="way", required=True, metavar="import|export")
    bring = ways.add_parser("import", help="put published weights into the store; every tensor is accounted for")
    kinds = bring.add_subparsers(dest="kind", required=True, metavar="backbones|checkpoint|model")
    backbones = kinds.add_parser("backbones", help="vision tower, Q-Former and language model")
    backbones.add_argument("--vision", metavar="PATH", help="eva_vit_g.pth, or a BLIP-2 folder of Hugging Face")
    backbones.add_argument(
        "--qformer", metavar="PATH", help="blip2_pretrained_flant5xxl.pth, or a BLIP-2 folder of Hugging Face"
    )
    backbones.add_argument("--llm", metavar="DIR", help="microsoft/phi-2, of any revision, with its tokenizer.json")
    backbones.add_argument("--preset", help="take sizes, dtype, pins and paths from this one (default: the paper's)")
    checkpoint = kinds.add_parser("checkpoint", help="TinyGPT-V_for_StageN.pth")
    checkpoint.add_argument("file", metavar="FILE")
    checkpoint.add_argument("--stage", required=True, metavar="STAGE", help="whose checkpoint it is, as in stage2")
    checkpoint.add_argument("--preset", default="nano", help="whose stage and backbones (default: nano)")
    for command in (backbones, checkpoint):
        _add_settings(command)
    model = kinds.add_parser("model", help="a folder that `weights export --to hf` wrote")
    model.add_argument("folder", metavar="DIR")
    take = ways.add_parser("export", help="make files of a model for others")
    take.add_argument("model", metavar="MODEL", help="as for `ask`, or the beginning of a checkpoint's digest")
    take.add_argument("out", metavar="OUT", help="a folder (hf) or file (published) that is not there yet")
    take.add_argument("--to", required=True, choices=("hf", "published"), help="which layout")
    take.add_argument("--backbones", metavar="DIGEST", help="on which it was trained, where the store does not say")
    for command in (backbones, checkpoint, model, take):
        _add_home(command)


def _add_manner(ask: argparse.ArgumentParser) -> None:
    manner = ask.add_argument_group(
        "how the answer is chosen",
        "By default the likeliest token each time, so that the same question gets the same answer.",
    )
    manner.add_argument(
        "--most-tokens", type=int, metavar="N", help="where an answer is cut (default: as the model says)"
    )
    manner.add_argument(
        "--beams", type=int, default=1, metavar="N",
        help="follow N answers side by side and give the likeliest (default: 1, which follows one)",
    )  # fmt: skip
    manner.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X",
        help="above 1: what was said already is said less (default: 1, no penalty)",
    )  # fmt: skip
    manner.add_argument(
        "--temperature", type=float, metavar="T",
        help="draw tokens by chance: near 0 almost always the likeliest, 1 as the model rates them, above it bolder; "
        "not with --beams",
    )  # fmt: skip
    manner.add_argument(
        "--top-p", type=float, metavar="P",
        help="draw among the likeliest tokens alone, as many as together have the share P (above 0, at most 1) of the "
        "probability; not with --beams",
    )  # fmt: skip
    manner.add_argument(
        "--seed", type=int, metavar="N",
        help="another seed draws another answer, the same one the same (default: 0: the same when asked again)",
    )  # fmt: skip


def _add_up(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--port", type=int, default=PREFECT_PORT, metavar="N", help="of Prefect's pages (default: %(default)s)"
    )
    up.add_argument(
        "--mlflow-port", type=int, default=MLFLOW_PORT, metavar="N", help="of MLflow's pages (default: %(default)s)"
    )
    up.add_argument("--runs", type=int, default=4, metavar="N", help="runs at once (default: %(default)s)")
    up.add_argument(
        "--trainings", type=int, default=1, metavar="N",
        help="stages that train at once, of all runs together: as many as there are GPUs for (default: %(default)s)",
    )  # fmt: skip
    up.add_argument(
        "--prefect-database", default=os.environ.get("TINYGPTV_PREFECT_DATABASE"), metavar="URL",
        help="postgresql://USER@HOST/NAME; with a password better as $TINYGPTV_PREFECT_DATABASE (default: SQLite here)",
    )  # fmt: skip
    up.add_argument(
        "--notify", default=os.environ.get("TINYGPTV_NOTIFY"), metavar="URL",
        help="who is told how a run ended, as Apprise writes it: mailto://..., slack://... (default: $TINYGPTV_NOTIFY)",
    )  # fmt: skip
    up.add_argument(
        "--mlflow-database", default=os.environ.get("TINYGPTV_MLFLOW_DATABASE"), metavar="URL",
        help="postgresql://USER@HOST/NAME; with a password better as $TINYGPTV_MLFLOW_DATABASE (default: SQLite here)",
    )  # fmt: skip
    _add_home(up)


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="change one value of the preset, as in stage3.schedule.peak=2e-5; may be repeated",
    )  # fmt: skip


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help="one that `tinygptv presets` tells of, or FILE.py:NAME of your own (default: nano)",
    )
    _add_settings(command)
    command.add_argument(
        "--list", metavar="FILE", dest="list_file",
        help="your own list of pictures (JSON array, JSON lines, CSV, TSV or parquet with columns url and caption) "
        "in place of the pre-training lists; several with commas between, a pattern, a folder, or an address "
        "(https://..., s3://...)",
    )  # fmt: skip
    command.add_argument(
        "--removal-list", metavar="FILE", dest="removal_list",
        help="leave out what this file names, one item a line: URLs, hosts, SHA-256 or perceptual hashes of pictures",
    )  # fmt: skip
    command.add_argument(
        "--instruct", metavar="FILE",
        help="your own talks about pictures, in LLaVA's form, in place of what the instruction stages draw from; "
        "with --images",
    )  # fmt: skip
    command.add_argument("--images", metavar="DIR", help="where the pictures of --instruct lie")
    command.add_argument(
        "--data", default=default_data(), metavar="DIR",
        help="what you downloaded, laid out as docs/data.md says (default: $TINYGPTV_DATA)",
    )  # fmt: skip
    command.add_argument(
        "--allow-host", action="append", default=[], metavar="H", dest="allow_hosts",
        help="fetch from this host although its address is not public; may be repeated",
    )  # fmt: skip
    command.add_argument("--ray-address", metavar="A", help="a running Ray cluster (default: one on this machine)")
    command.add_argument(
        "--init", metavar="STAGE=DIGEST",
        help="take this checkpoint of the store for what STAGE trains; the stages before it are left out",
    )  # fmt: skip
    command.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", dest="options",
        help="change where or how training runs, which builds nothing anew: device=cuda, processes=4, micro_batch=8, "
        "gradient_checkpointing=true, packed=true, loader_workers=2, engine=zero2 (ddp, zero1, zero2 or zero3), ...; "
        "may be repeated",
    )  # fmt: skip
    _add_home(command)


def _add_home(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--home", type=typed_path, default=default_home(), metavar="DIR",
        help="where everything is kept (default: $TINYGPTV_HOME, or .tinygptv here)",
    )  # fmt: skip
