"""MLflow's own database, made whole or not at all.

MLflow makes its tables by some forty changes one after another, for seconds. Killed between them, or done by two runs
at once, it leaves a database that it refuses ever after.
"""

from pathlib import Path

from tasks.lease import lease
from tasks.registering.registry import SQLITE, database


def make_database(tracking_uri: str) -> None:
    """Make the database that an SQLite URI names, if there is none; of another URI nothing."""
    if not tracking_uri.startswith(SQLITE) or _is_made(path := database(tracking_uri)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with lease(path.with_name(f"{path.name}.lease"), lambda text: None):
        if not _is_made(path):
            _make(path)


def _is_made(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _make(path: Path) -> None:
    from mlflow import MlflowClient

    draft = path.with_name(f"{path.name}.new")
    for left in path.parent.glob(f"{draft.name}*"):
        left.unlink()
    uri = f"{SQLITE}{draft}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models()
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments()
    draft.replace(path)
