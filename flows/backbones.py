"""The flow that trains the `nano` backbones anew, with the settings of those that come with the package.

    python -m flows.backbones [--home DIR]

It takes about 25 minutes on one core and prints the artifact's digest and folder: on a machine of the kind that made
the shipped ones, their digest. To ship another, copy the folder's files, all but manifest.json, to
`tinygptv_core/backbones/nano` and write its digest into `tinygptv_core/presets.py`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from flows.home import default_home
from flows.serving.server import start_prefect_server
from flows.terminal import say
from tasks.backbones import NANO, PRETRAIN, pretrain
from tasks.build import BuildResult, Store
from tasks.request import Request, StepFolders
from tasks.typed_paths import typed_path
from tinygptv_core.artifact import Artifact


def main() -> int:
    """Train, or find what was trained before on this home."""
    parser = argparse.ArgumentParser(prog="python -m flows.backbones", description="Train the nano backbones.")
    parser.add_argument("--home", type=typed_path, default=default_home(), metavar="DIR")
    home = parser.parse_args().home
    start_prefect_server(home)()
    built = backbones(home)
    say(f"{built.action}: {built.artifact.digest}")
    sys.stdout.write(f"{built.artifact.path}\n")
    return 0


def backbones(home: Path) -> BuildResult:
    """The flow; Prefect is imported here, after its settings."""
    from prefect import flow

    from flows.provenance import noted
    from flows.walk import step

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        pretrain(NANO, folders)

    @flow(name="backbones", validate_parameters=False, persist_result=False)
    def run_backbones(home: str) -> BuildResult:
        request = Request(name="backbones/pretrain", step=PRETRAIN, config=NANO, inputs={}, work=work)
        return step(Store(Path(home) / "store"), request, {}, {}, noted=noted("backbones", None), force=False)

    return run_backbones(str(home))


if __name__ == "__main__":
    sys.exit(main())
