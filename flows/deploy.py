"""The deployments on the server that is named, and what goes with them: the pool, a limit, an automation.

Imported after the server is known (`PREFECT_API_URL`). For a server of one's own (docs/deploying.md):

python -m flows.deploy [--trainings N] [--notify URL] [--bucket NAME ...]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
import yaml
from prefect.automations import Automation
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import SecretStr

from flows.serving.left_open import close_runs_of
from flows.settings import DEPLOYMENTS, POOL
from flows.walk import TRAINING

SILENT = timedelta(seconds=75)
"""Two heartbeats and a half."""
CRASHED = "tinygptv: a run whose heartbeat stays away has crashed"
NOTIFIED = "tinygptv: somebody is told how a run ended"
BLOCK = "tinygptv-notify"
ANY_RUN = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def deploy(file: Path, pool: str, *, trainings: int, notify: str | None) -> None:
    """Bring the server up to date with `file` (a prefect.yaml), while no worker is there and no run goes on.

    Args:
        trainings: so many stages train at once, of all runs on this server.
        notify: who is told how a run ended, as Apprise writes it (mailto://..., slack://..., json://...).

    Raises:
        RuntimeError: Prefect refuses it; says what it said.
    """
    with get_client(sync_client=True) as client:
        _pool(client, pool)
        _limit(client, trainings)
        told = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
            env={**os.environ, "TINYGPTV_POOL": pool},
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode:
            raise RuntimeError(f"the deployments of {file} were refused:\n{told.stdout}{told.stderr}")
        for deployment in _deployments(file):
            _forbid_unknown(client, deployment)
    close_open_runs(file)
    _crash_the_silent()
    _notify(notify)


def close_open_runs(file: Path) -> None:
    """Have the runs of the deployments in `file` end as crashed that are still open, when no worker is there."""
    with get_client(sync_client=True) as client, suppress(httpx.HTTPError):  # else the next one does it
        close_runs_of(client, [deployment["name"] for deployment in _deployments(file)])


def _deployments(file: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(file.read_text())["deployments"]


def _pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))


def _limit(client: SyncPrefectClient, trainings: int) -> None:
    """The limit with all its places free: who held one when everything was killed, gives it back no more."""
    client.upsert_global_concurrency_limit_by_name(TRAINING, trainings)
    free = GlobalConcurrencyLimitUpdate(active_slots=0)
    client.update_global_concurrency_limit(TRAINING, free)


def _forbid_unknown(client: SyncPrefectClient, deployment: dict[str, Any]) -> None:
    """Refuse parameters that the flow does not have: Prefect itself would start a run, which then crashes."""
    found = client.read_deployment_by_name(f"{deployment['name']}/{deployment['name']}")
    schema = {**(found.parameter_openapi_schema or {}), "additionalProperties": False}
    client.update_deployment(found.id, DeploymentUpdate(parameter_openapi_schema=schema))


def _crash_the_silent() -> None:
    """A run whose heartbeat stays away is shown as crashed: it was killed together with its worker."""
    beat = "prefect.flow-run.heartbeat"
    crashed = ChangeFlowRunState(
        name=None, state=StateType.CRASHED, message="Its process ended without a word: no heartbeat came.", force=False
    )
    trigger = EventTrigger(
        after={beat},
        expect={beat, *(f"prefect.flow-run.{end}" for end in ENDS)},
        match=ANY_RUN,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENT,
    )
    _automate(CRASHED, trigger, crashed)


def _notify(address: str | None) -> None:
    """Tell `address` how every run ended; nobody any more where it is None."""
    if address is None:
        _forget(NOTIFIED)
        return
    # Prefect's base of its Apprise blocks is abstract; this one of them hands any address on to Apprise.
    block = SlackWebhook(url=SecretStr(address)).save(BLOCK, overwrite=True)
    told = SendNotification(
        block_document_id=cast(UUID, block),
        subject="tinygptv: {{ flow_run.name }} {{ flow_run.state.name }}",
        body="{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message or '' }}",
    )
    trigger = EventTrigger(
        expect={f"prefect.flow-run.{end}" for end in ENDS},
        match=ANY_RUN,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    _automate(NOTIFIED, trigger, told)


def _automate(name: str, trigger: EventTrigger, action: Any) -> None:
    _forget(name)
    Automation(name=name, trigger=trigger, actions=[action]).create()


def _forget(name: str) -> None:
    try:
        found = cast(Automation, Automation.read(name=name))  # no coroutine here, where no loop runs
    except ValueError:
        return
    found.delete()


def parser() -> argparse.ArgumentParser:
    """The grammar of `python -m flows.deploy`."""
    found = argparse.ArgumentParser(
        prog="python -m flows.deploy",
        description="Bring the Prefect server that PREFECT_API_URL names up to date: work pool, deployments, limits.",
    )
    found.add_argument("--trainings", type=int, default=1, metavar="N", help="stages that train at once (default: 1)")
    found.add_argument("--notify", metavar="URL", help="who is told how a run ended, as Apprise writes it")
    found.add_argument(
        "--bucket", action="append", default=[], metavar="NAME", dest="buckets",
        help="make this bucket, too, where AWS_ENDPOINT_URL says, unless it is there; may be repeated",
    )  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the server does not answer or refused something, 2 no server is named."""
    options, address = parser().parse_args(argv), os.environ.get("PREFECT_API_URL")
    if not address:
        sys.stderr.write("PREFECT_API_URL is not set; it must be a server's address, as in http://prefect:4200/api\n")
        return 2
    for bucket in options.buckets:
        make_bucket(bucket)
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    try:
        if failure is not None:
            raise RuntimeError(f"no Prefect server answers at {address}: {failure}")
        deploy(DEPLOYMENTS, POOL, trainings=options.trainings, notify=options.notify)
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        sys.stderr.write(f"{address} answers {status}; 401: set PREFECT_API_AUTH_STRING=USER:PASSWORD as it has them\n")
        return 1
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def make_bucket(name: str) -> None:
    """A bucket on the store of S3's kind that the environment names; one that is there stays as it is."""
    from s3fs import S3FileSystem

    S3FileSystem().makedirs(name, exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
