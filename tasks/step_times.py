"""How long a step took the last time, as the store's records have it."""

import json

from tasks.build import Store
from tasks.request import Request
from tasks.storing.records import Records


def seconds_last_time(request: Request, store: Store) -> float | None:
    """Of the newest build of a step of this name, whatever its settings; None where there is none.

    Without the steps of a training, which are estimated apart: what is left are the start of its processes, the
    held-out losses and the checkpoint. Of one that was stopped in between the last part counts.
    """
    found = (record for record in Records(store).of_step(request.step.name) if record.name == request.name)
    last = next((record for record in found if "seconds" in record.noted), None)
    if last is None:
        return None
    summary = store.notes(last.key) / "summary.json"
    steps = json.loads(summary.read_text())["seconds"] if summary.exists() else 0.0
    return max(0.0, last.noted["seconds"] - steps)
