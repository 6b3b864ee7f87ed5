"""Settings of others for a run on this machine. Imported before Prefect, which reads them when it is imported."""

import logging
import os
from pathlib import Path

DEPLOYMENTS = Path(__file__).parent / "prefect.yaml"
POOL = "tinygptv"
"""The work pool that they run in."""
SERVER = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # whole seconds: 0.3 would spin
}
"""A server of Prefect sends nothing anywhere, and writes down what it is told soon."""


def only_pages_of(port: int) -> dict[str, str]:
    """A server's setting that no page but its own may ask it for anything: any page in a browser might start runs."""
    return {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}"}


def configure_prefect(home: Path) -> None:
    """Prefect keeps all in the home, sends nothing anywhere and leaves the terminal to us; what the user set, stays.

    Matplotlib, which the report is drawn with, keeps its list of fonts there, too.
    """
    (home / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect makes only the last folder of the path
    for name, value in {
        "PREFECT_HOME": str(home / "prefect"),
        **SERVER,
        "MPLCONFIGDIR": str(home / "matplotlib"),
        # The server gets the log; the terminal has lines of its own, and a person's mistake shows no traceback.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    }.items():
        os.environ.setdefault(name, value)
    warnings = logging.StreamHandler()
    warnings.setLevel(logging.WARNING)
    warnings.setFormatter(logging.Formatter("        %(message)s"))
    for ours in ("flows", "tasks", "tinygptv_core"):
        logging.getLogger(ours).addHandler(warnings)
