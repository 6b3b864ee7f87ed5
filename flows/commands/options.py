"""The options that several commands have, and the choice that they make."""

import argparse
from collections.abc import Callable
from typing import get_args

from flows.choosing.choice import DEFAULT_PRESET, DEFAULT_RULE, Choice, default_data
from flows.home import default_home
from tasks.promote import Rule
from tasks.typed_paths import typed_path


def whole_number(*, at_least: int, at_most: int | None = None) -> Callable[[str], int]:
    """What reads such a number among a command's options, or says which are taken."""

    def number(text: str) -> int:
        found = int(text)
        if found < at_least or (at_most is not None and found > at_most):
            wanted = f"at least {at_least}" if at_most is None else f"in {at_least}..{at_most}"
            raise argparse.ArgumentTypeError(f"{text}: it must be {wanted}")
        return found

    number.__name__ = "whole number"  # which argparse names where the text is none
    return number


def add_home(command: argparse.ArgumentParser) -> None:
    """`--home`."""
    command.add_argument(
        "--home", type=typed_path, default=default_home(), metavar="DIR",
        help="the folder for everything that a run writes (default: $TINYGPTV_HOME, or ./.tinygptv)",
    )  # fmt: skip


def add_settings(command: argparse.ArgumentParser) -> None:
    """`--set`."""
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="change one value of the preset: stage3.schedule.peak=2e-5; may be repeated",
    )  # fmt: skip


def add_choice(command: argparse.ArgumentParser) -> None:
    """Those that say what a run builds, and where."""
    command.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help="one that `tinygptv presets` lists, or your own as FILE.py:NAME (default: nano)",
    )
    add_settings(command)
    command.add_argument(
        "--list", metavar="FILE", dest="list_file",
        help="your own list of image URLs (JSON array, JSON lines, CSV, TSV or parquet with columns url and caption) "
        "in place of the pre-training lists: a file, several separated by commas, a glob pattern, a folder, or an "
        "address (https://..., s3://...)",
    )  # fmt: skip
    command.add_argument(
        "--removal-list", metavar="FILE", dest="removal_list",
        help="leave out what this file names, one per line: URLs, hosts, SHA-256 or perceptual hashes of images",
    )  # fmt: skip
    command.add_argument(
        "--instruct", metavar="FILE",
        help="your own conversations about images, in LLaVA's JSON format, in place of the data of the instruction "
        "stages; needs --images",
    )  # fmt: skip
    command.add_argument("--images", metavar="DIR", help="the folder of the images that --instruct names")
    command.add_argument(
        "--data", default=default_data(), metavar="DIR",
        help="the folder of what you downloaded, laid out as docs/data.md says (default: $TINYGPTV_DATA)",
    )  # fmt: skip
    command.add_argument(
        "--allow-host", action="append", default=[], metavar="H", dest="allow_hosts",
        help="allow fetching from this host although its address is not public; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--ray-address", metavar="A", help="the address of a running Ray cluster (default: start one on this machine)"
    )
    command.add_argument(
        "--init", metavar="STAGE=DIGEST",
        help="use this checkpoint from the store as the result of STAGE; earlier stages are skipped",
    )  # fmt: skip
    command.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", dest="options",
        help="change where or how training runs; rebuilds nothing: device=cuda, processes=4, micro_batch=8, "
        "gradient_checkpointing=true, packed=true, loader_workers=2, engine=zero2 (ddp, zero1, zero2 or zero3), ...; "
        "may be repeated",
    )  # fmt: skip
    add_home(command)


def add_registering(command: argparse.ArgumentParser) -> None:
    """Those that say how a run registers its model."""
    command.add_argument(
        "--promote", choices=get_args(Rule), default=DEFAULT_RULE,
        help="when the new version becomes the champion. never; first: if there is none; better: also if its mean "
        "score, on the same questions, is lower on no evaluation and higher on at least one, which may be chance "
        "(default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--bundle",
        action="store_true",
        help="store a copy of the frozen backbones with the version, not only a reference",
    )


def choice_of(options: argparse.Namespace, until: tuple[str, ...] = ()) -> Choice:
    """What was typed. A command that lacks some of the options has what is usual."""
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
        promote=getattr(options, "promote", DEFAULT_RULE),
        bundle=getattr(options, "bundle", False),
    )
