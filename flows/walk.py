"""Walking the steps as one Prefect flow: Prefect shows what happens, the store decides what is built."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.choice import Choice, Prepared, prepare
from flows.foreseen import what_it_takes
from flows.noted import noted
from flows.place import wait_for_imports
from flows.plan import Planned, resolve
from flows.summary import report_on
from flows.terminal import say
from tasks.build import Built, Inputs, Request, Store

SETTLE_SECONDS = 10.0


@flow(name="tinygptv", validate_parameters=False, persist_result=False)
def run_pipeline(choice: Choice) -> Path:
    """From lists of URLs to a registered model; what the store already has is reused.

    Returns:
        The path of the run's report.json.
    """
    wait_for_imports()
    prepared = prepare(choice, writes=True)
    create_markdown_artifact(
        _table(prepared.planned), key="plan", description="What this run builds and reuses, and why"
    )
    with prepared.place.opened:
        built = _walk(prepared)
    _settle(UUID(flow_run.get_id()))
    report, path = report_on(prepared, built)
    prepared.terminal.summary(report, path)
    return path


def _walk(prepared: Prepared) -> dict[str, Built]:
    """Every selected step in its order, each answered from the store or built."""
    place, selection = prepared.place, prepared.selection
    prepared.terminal.steps = len(selection.walked)
    told = noted(place.run, place.options.processes)
    built: dict[str, Built] = {}
    for request in selection.walked:
        artifacts = {name: item.artifact for name, item in built.items()}
        inputs, aids = resolve(request, artifacts), {name: artifacts[made] for name, made in request.aids.items()}
        force = request.name in selection.forced
        built[request.name] = step(place.store, request, inputs, aids, noted=told, force=force)
        prepared.terminal.done(built[request.name])
    return built


def step(
    store: Store, request: Request, inputs: Inputs, aids: Inputs, *, noted: Mapping[str, Any], force: bool
) -> Built:
    """One step as a Prefect task, which ends as *Reused* when the store had it."""

    @task(name=request.step.name, task_run_name=request.name, cache_policy=NO_CACHE, persist_result=False)
    def built_or_reused() -> State[Built]:
        logger = get_run_logger()

        def waiting(text: str) -> None:
            logger.warning(text)
            say(f"        {request.name}: {text}")

        built = store.build(request, inputs, aids, noted=noted, force=force, waiting=waiting)
        logger.info("%s: %s; %s", built.action, built.why, built.artifact.path)
        name = "Reused" if built.action == "reuse" else "Completed"
        return Completed(name=name, message=built.why, data=built)

    return cast(Built, built_or_reused(return_state=True).result())


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


def _table(planned: tuple[Planned, ...]) -> str:
    rows = [[item.step, item.action, item.why, "<br>".join(what_it_takes(item))] for item in planned]
    lines = [" | ".join(text.replace("|", "/") for text in row) for row in rows]
    head = ["| step | action | why | takes |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(f"| {line} |" for line in lines)])
