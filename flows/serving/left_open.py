"""What runs that were killed left open in Prefect, closed by the next run or the next `tinygptv up`."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from tasks.lease import Holder, is_alive

GOING_ON = [StateType.PENDING, StateType.RUNNING]
WHY = "Its process was killed."


def close_killed_runs(flow: str) -> bool:
    """Have runs of that flow end as crashed whose process is no longer there; whether there were any.

    A run says which process it is in its parameter `process` (`tasks.lease.Holder`, as a mapping).
    """
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=GOING_ON))
    with get_client(sync_client=True) as client:
        going_on = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), flow_run_filter=FlowRunFilter(state=state)
        )
        killed = [run.id for run in going_on if _is_killed(run.parameters.get("process"))]
        for run_id in killed:
            _close(client, run_id)
    return bool(killed)


def close_runs_of(client: SyncPrefectClient, deployments: Sequence[str]) -> None:
    """Have all open runs of these deployments end as crashed, when nobody is there who could work on one.

    Those that only wait for a worker stay.
    """
    open_states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[*GOING_ON, StateType.CANCELLING]))
    while found := client.read_flow_runs(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=list(deployments))),
        flow_run_filter=FlowRunFilter(state=open_states),
    ):  # no more than some hundreds at once
        for run in found:
            _close(client, run.id)


def _is_killed(process: Mapping[str, Any] | None) -> bool:
    return process is not None and not is_alive(Holder(**process))


def _close(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    state = TaskRunFilterState(type=TaskRunFilterStateType(any_=GOING_ON))
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
        task_run_filter=TaskRunFilter(state=state),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=WHY), force=True)
    client.set_flow_run_state(flow_run_id, Crashed(message=WHY), force=True)
