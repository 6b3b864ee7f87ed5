"""`tinygptv up`: its options, and starting it."""

import argparse
import os
import sys
from typing import Any

from flows.commands.options import add_home, whole_number
from flows.home import check_writable
from flows.serving.ports import MOST_PORT
from flows.statuses import DONE, FAILED
from flows.up import MLFLOW_PORT, PREFECT_PORT, UpOptions, run_up


def add_parsers(commands: Any) -> None:
    """Its grammar, below `commands`."""
    up = commands.add_parser(
        "up", help="start the Prefect and MLflow servers, and the worker that runs what you start there"
    )
    up.set_defaults(act=_up)
    port, count = whole_number(at_least=1, at_most=MOST_PORT), whole_number(at_least=1)
    up.add_argument(
        "--port", type=port, default=PREFECT_PORT, metavar="N",
        help="the port of the Prefect UI (default: %(default)s)",
    )  # fmt: skip
    up.add_argument(
        "--mlflow-port", type=port, default=MLFLOW_PORT, metavar="N",
        help="the port of the MLflow UI (default: %(default)s)",
    )  # fmt: skip
    up.add_argument("--runs", type=count, default=4, metavar="N", help="the most runs at once (default: %(default)s)")
    up.add_argument(
        "--trainings", type=count, default=1, metavar="N",
        help="the most stages in training at once, over all runs: as many as you have GPUs for (default: %(default)s)",
    )  # fmt: skip
    up.add_argument(
        "--prefect-database", default=os.environ.get("TINYGPTV_PREFECT_DATABASE"), metavar="URL",
        help="postgresql://USER@HOST/NAME; with a password, set $TINYGPTV_PREFECT_DATABASE instead (default: SQLite)",
    )  # fmt: skip
    up.add_argument(
        "--notify", default=os.environ.get("TINYGPTV_NOTIFY"), metavar="URL",
        help="notify this Apprise URL when a run ends: mailto://..., slack://... (default: $TINYGPTV_NOTIFY)",
    )  # fmt: skip
    up.add_argument(
        "--mlflow-database", default=os.environ.get("TINYGPTV_MLFLOW_DATABASE"), metavar="URL",
        help="postgresql://USER@HOST/NAME; with a password, set $TINYGPTV_MLFLOW_DATABASE instead (default: SQLite)",
    )  # fmt: skip
    add_home(up)


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
