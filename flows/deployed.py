"""The flows that Prefect's interface and REST API start; flows/prefect.yaml names them.

Each fills in a `Choice`, as the command does, and walks it: what can be started here is what can be typed there. The
docstrings and the types' descriptions are the form's own words.
"""

from collections.abc import Callable

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.choosing.choice import Choice
from flows.choosing.forms import (
    ALL,
    AS_NEEDED,
    EVERY_STEP,
    Changes,
    Data,
    DatasetName,
    Filled,
    Machine,
    Only,
    PresetName,
    Registering,
    StageName,
    StartFrom,
    choice_of,
    datasets_of,
    ends_before,
)
from flows.train import BACKBONES
from flows.walk import walk
from tinygptv_core.plain import ConfigError


@flow(persist_result=False)
def pipeline(
    preset: PresetName = "nano",
    start_from: StartFrom = AS_NEEDED,
    only: Only = EVERY_STEP,
    data: Data = Data(),
    changes: Changes = Changes(),
    machine: Machine = Machine(),
    registering: Registering = Registering(),
) -> str | State[str]:
    """From lists of URLs to a registered model. What the store already has is reused.

    Args:
        preset: The run: backbones, data sets, stages and evaluations.
        start_from: Rebuild this step and the steps after it.
        only: Build this step alone; the steps before it must be built already.
        data: Your own data.
        changes: Changes to the preset.
        machine: Where and how it runs.
        registering: How the model is registered.
    """
    alone, begin = _unless(EVERY_STEP, only), _unless(AS_NEEDED, start_from)
    return _walk(lambda: choice_of(preset, Filled(data, changes, machine, registering), only=alone, start_from=begin))


@flow(persist_result=False)
def data(
    preset: PresetName = "nano",
    dataset: DatasetName = ALL,
    data: Data = Data(),
    changes: Changes = Changes(),
    machine: Machine = Machine(),
) -> str | State[str]:
    """From lists to shards: rows, filter, fetch, screen. Nothing is trained.

    Args:
        preset: The preset that has the data sets and limits.
        dataset: One of them, or all.
        data: Your own data.
        changes: Changes to the preset.
        machine: Where and how it runs.
    """
    return _walk(lambda: choice_of(preset, Filled(data, changes, machine), until=datasets_of(preset, data, dataset)))


@flow(persist_result=False)
def stages(
    preset: PresetName = "nano",
    first: StageName = "stage1",
    last: StageName = "stage4",
    anew: bool = False,
    data: Data = Data(),
    changes: Changes = Changes(),
    machine: Machine = Machine(),
) -> str | State[str]:
    """Train one stage or a range of them, and score each.

    Args:
        preset: The run that they belong to.
        first: The first stage of the range.
        last: The last one; nothing after it is built.
        anew: Train the range again even if it is in the store; the stages before it are reused.
        data: Your own data.
        changes: Changes to the preset.
        machine: Where and how it runs.
    """
    if ends_before(preset, first, last):
        return Failed(message=f"the range begins with {first}, which comes after its end, {last}")
    start_from = first if anew else None
    return _walk(lambda: choice_of(preset, Filled(data, changes, machine), start_from=start_from, until=(last,)))


@flow(persist_result=False)
def evaluation(
    preset: PresetName = "nano",
    stage: StageName = "stage4",
    anew: bool = False,
    data: Data = Data(),
    changes: Changes = Changes(),
    machine: Machine = Machine(),
) -> str | State[str]:
    """Score a stage's checkpoint; builds what is missing.

    Args:
        preset: The run that it belongs to.
        stage: The stage whose checkpoint is scored.
        anew: Score it again even if the scores are in the store.
        data: Your own data.
        changes: Changes to the preset; `evaluations` chooses the evaluations.
        machine: Where and how it runs.
    """
    step = f"{stage}/evaluate"
    return _walk(
        lambda: choice_of(preset, Filled(data, changes, machine), start_from=step if anew else None, until=(step,))
    )


@flow(persist_result=False)
def registration(
    preset: PresetName = "nano",
    data: Data = Data(),
    changes: Changes = Changes(),
    machine: Machine = Machine(),
    registering: Registering = Registering(),
) -> str | State[str]:
    """Register the last stage's model; refuses to build the steps before.

    Args:
        preset: The run that it belongs to.
        data: Your own data.
        changes: Changes to the preset.
        machine: Where and how it runs.
        registering: How the model is registered.
    """
    return _walk(lambda: choice_of(preset, Filled(data, changes, machine, registering), only="register"))


@flow(persist_result=False)
def backbones(preset: PresetName = "nano", machine: Machine = Machine()) -> str | State[str]:
    """Import the frozen backbones of a preset into the store, and check them.

    Args:
        preset: The preset that has the backbones.
        machine: Where and how it runs.
    """
    return _walk(lambda: choice_of(preset, Filled(Data(), Changes(), machine), until=(BACKBONES,)))


def _unless(nothing: str, value: str) -> str | None:
    return None if value == nothing else value


def _walk(asked: Callable[[], Choice]) -> str | State[str]:
    """The path of the run's report; a person's mistake ends the run with its message, not with a stack trace."""
    try:
        return str(walk(asked()))
    except ConfigError as error:
        return Failed(message=str(error))
