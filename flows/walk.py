"""Walking the steps as one Prefect flow: Prefect shows what happens, the store decides what is built."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.choosing.choice import Choice, Prepared, prepare
from flows.plan import resolve
from flows.promotion import log_report, promoted, reported
from flows.provenance import noted
from flows.reporting.shown import Progress, show_plan, show_result
from flows.run_environment import RunEnvironment, wait_for_imports
from flows.serving.left_open import close_killed_runs
from flows.terminal import say
from tasks.build import BuildResult, Store
from tasks.request import Inputs, Request, StepFolders
from tasks.train import TRAIN
from tasks.training.cluster import remove_leftovers
from tinygptv_core.artifact import Artifact

FLOW = "tinygptv"
SETTLE_SECONDS = 10.0
TRAINING = "tinygptv-training"
"""The limit, if the server has one, on how many stages train at once."""
TURN_SECONDS = 60.0
"""After so long without a word from a run that trains its place is another's."""


@flow(name=FLOW, validate_parameters=False, persist_result=False)
def run_pipeline(choice: Choice, process: Mapping[str, Any]) -> Path:
    """`walk` for the command.

    Args:
        process: this one (`tasks.lease.Holder`), so that others can tell whether the run goes on.
    """
    return walk(choice)


def walk(choice: Choice) -> Path:
    """From lists of URLs to a registered model, within a flow; what the store already has is reused.

    Returns:
        The path of the run's report.json.
    """
    wait_for_imports()
    prepared = prepare(choice, writes=True)
    _tidy_up(prepared.environment)
    show_plan(prepared.planned)
    progress = Progress()
    prepared.terminal.also = progress.tell
    with prepared.environment.store.in_use(say):  # until the report says what it needs
        with progress.shown(), prepared.environment.opened:
            built = _steps(prepared)
            verdict = promoted(prepared, built["register"]) if "register" in built else None
            with ThreadPoolExecutor(1) as beside:
                # Ray takes seconds for it, most of them waiting.
                ended = beside.submit(prepared.environment.opened.close)
                report, page, path = reported(prepared, built)
                ended.result()
    _settle(UUID(flow_run.get_id()))
    log_report(prepared, path)
    show_result(prepared, report, page, path, verdict)
    prepared.terminal.summary(report, path)
    return path


def _tidy_up(environment: RunEnvironment) -> None:
    """Close and remove what runs that were killed have left."""
    remove_leftovers(environment.home)
    if close_killed_runs(FLOW):
        _ = environment.pipeline_run  # to open it closes what they left open in MLflow


def _steps(prepared: Prepared) -> dict[str, BuildResult]:
    """Every selected step in its order, each answered from the store or built."""
    environment, selection = prepared.environment, prepared.selection
    prepared.terminal.steps = len(selection.walked)
    told = noted(environment.run, environment.options)
    built: dict[str, BuildResult] = {}
    for request in selection.walked:
        artifacts = {name: item.artifact for name, item in built.items()}
        inputs, aids = resolve(request, artifacts), {name: artifacts[made] for name, made in request.aids.items()}
        force = request.name in selection.forced
        built[request.name] = step(environment.store, request, inputs, aids, noted=told, force=force)
        prepared.terminal.done(built[request.name])
    return built


def step(
    store: Store, request: Request, inputs: Inputs, aids: Inputs, *, noted: Mapping[str, Any], force: bool
) -> BuildResult:
    """One step as a Prefect task, which ends as *Reused* when the store had it."""

    @task(name=request.step.name, task_run_name=request.name, cache_policy=NO_CACHE, persist_result=False)
    def built_or_reused() -> State[BuildResult]:
        logger = get_run_logger()

        def waiting(text: str) -> None:
            logger.warning(text)
            say(f"        {request.name}: {text}")

        asked = _in_turn(request, waiting) if request.step == TRAIN else request
        built = store.build(asked, inputs, aids, noted=noted, force=force, waiting=waiting)
        logger.info("%s: %s; %s", built.action, built.why, built.artifact.path)
        name = "Reused" if built.action == "reuse" else "Completed"
        return Completed(name=name, message=built.why, data=built)

    return cast(BuildResult, built_or_reused(return_state=True).result())


def _in_turn(request: Request, waiting: Callable[[str], None]) -> Request:
    """A training that waits for its turn where the server limits how many train at once.

    It waits when it is about to begin: what is there, or is being built by another run, takes no turn.
    """

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        _tell_if_full(waiting)
        with concurrency(TRAINING, occupy=1, lease_duration=TURN_SECONDS):
            request.work(inputs, folders)

    return replace(request, work=work)


def _tell_if_full(waiting: Callable[[str], None]) -> None:
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        found = client.read_global_concurrency_limit_by_name(TRAINING)
        if found.active_slots >= found.limit:
            waiting(f"waits for its turn: {found.active_slots} train already, and the server lets no more do so")


def _settle(flow_run_id: UUID) -> None:
    """Wait until the server has written down how every task ended: an ephemeral server ends with us."""
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    end = time.monotonic() + SETTLE_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < end:
            states = [item.state for item in client.read_task_runs(flow_run_filter=mine)]
            if all(state is not None and state.is_final() for state in states):
                return
            time.sleep(0.2)
