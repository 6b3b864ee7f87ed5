"""Prefect's settings for a run on this machine. Imported before Prefect, which reads them when it is imported."""

import logging
import os
from pathlib import Path


def settle_prefect(home: Path) -> None:
    """Prefect's own settings, unless the person has set others: all of it in the home, nothing sent anywhere."""
    for name, value in {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # whole seconds: 0.3 would spin
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("prefect").setLevel(logging.WARNING)
