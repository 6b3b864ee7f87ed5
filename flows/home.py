"""The folder in which everything is that a run writes: which it is, and whether it can be one."""

import os
import tempfile
from pathlib import Path

from flows.serving.who_is_up import up_on
from tasks.registering.registry import database_in
from tasks.shortages import has_no_room
from tasks.typed_paths import typed_path
from tinygptv_core.plain import ConfigError

HELD = ("store", "mlflow", "prefect", "runs", "ray")
"""The folders of a home."""
OTHER_HOME = "  name another home with --home DIR, or set TINYGPTV_HOME"


def default_home() -> Path:
    """The home of a run that names none."""
    return typed_path(os.environ.get("TINYGPTV_HOME") or ".tinygptv")


def home_option(home: Path) -> list[str]:
    """What names `home` in a command that is to be typed; nothing where it is the default."""
    return [] if home == default_home() else ["--home", str(home)]


def tracking_uri(home: Path) -> str:
    """Where MLflow keeps what it is told: the server that the environment names, one up on the home, or a database."""
    up = up_on(home)
    return os.environ.get("MLFLOW_TRACKING_URI") or (up.mlflow if up else database_in(home))


def check_folder(home: Path) -> None:
    """Refuse a home that is, or lies in, something else than a folder, or a folder that this user may not read.

    Raises:
        ConfigError: it is, or does.
    """
    try:
        there = next(path for path in (home, *home.parents) if path.is_dir() or path.exists())
        if there == home and there.is_dir():
            os.scandir(home).close()
    except PermissionError as error:
        raise ConfigError(
            f"the home {home} can be neither read nor written to ({error.strerror}).\n{OTHER_HOME}"
        ) from None
    if not there.is_dir():
        raise ConfigError(f"the home {home} is no folder: {there} is a file.\n  name another with --home DIR")


def check_writable(home: Path) -> None:
    """Refuse a home in which nothing can be written, or in a folder of it, which may lie elsewhere (a link, a mount).

    Changes nothing: a home that is not there is made when something is written, so that a refused command leaves none.

    Raises:
        ConfigError: the home, a folder of it, or what the home is to be made in cannot be written to.
    """
    there = next(path for path in (home, *home.parents) if path.is_dir())
    for folder in (there, *(home / name for name in HELD if (home / name).is_dir())):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            if has_no_room(error):
                raise
            what = f"the home {home}" if folder == there else f"{folder.name}/ of the home {folder}"
            raise ConfigError(f"{what} cannot be written to ({error.strerror}).\n{OTHER_HOME}") from None
