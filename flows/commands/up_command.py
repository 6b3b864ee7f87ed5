"""`tinygptv up`: its options, and starting it."""

import argparse
import os
import sys
from typing import Any

from flows.commands.options import DONE, FAILED, add_home, whole_number
from flows.home import check_writable
from flows.serving.ports import MOST_PORT
from flows.serving.up import MLFLOW_PORT, PREFECT_PORT, UpOptions, run_up


def add_parsers(commands: Any) -> None:
    """Its grammar, below `commands`."""
    up = commands.add_parser("up", help="Prefect's and MLflow's pages, and the worker that runs what is started there")
    up.set_defaults(act=_up)
    port, count = whole_number(at_least=1, at_most=MOST_PORT), whole_number(at_least=1)
    up.add_argument(
        "--port", type=port, default=PREFECT_PORT, metavar="N",
        help="the port of Prefect's pages (default: %(default)s)",
    )  # fmt: skip
    up.add_argument(
        "--mlflow-port", type=port, default=MLFLOW_PORT, metavar="N",
        help="the port of MLflow's pages (default: %(default)s)",
    )  # fmt: skip
    up.add_argument("--runs", type=count, default=4, metavar="N", help="runs at once (default: %(default)s)")
    up.add_argument(
        "--trainings", type=count, default=1, metavar="N",
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
