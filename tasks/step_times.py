"""How long a step took the last time, as the store's records have it."""

from tasks.build import RecordsOf, Store
from tasks.request import Request
from tasks.train import TRAIN
from tasks.training.told import summary_in


def seconds_last_time(request: Request, store: Store, records_of: RecordsOf) -> float | None:
    """Of the newest build of a step of this name, whatever its settings; None where there is none.

    Without the steps of a training, which are estimated apart: what is left are the start of its processes, the
    held-out losses and the checkpoint. Of one that was stopped in between the last part counts. None, too, where what
    its steps took is not in the store.

    Raises:
        ConfigError: what a training told is damaged.
    """
    found = (
        (key, told["noted"]) for key, told in records_of(request.step.name).items() if told["name"] == request.name
    )
    key, seconds = next(((key, noted["seconds"]) for key, noted in found if "seconds" in noted), ("", None))
    if seconds is None or request.step.name != TRAIN.name:
        return seconds
    summary = summary_in(store.notes(key))
    return None if summary is None else max(0.0, seconds - summary["seconds"])
