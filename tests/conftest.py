import os
import signal
from typing import Any

import pytest

# Processes share two cores. Where torch has more threads than it gets cores, they wait for each other by spinning, and
# take several times as long. Tests of whole runs have their own number of threads, which then do not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# As in the Makefile, for whoever starts pytest by hand: no library sends home that it is used.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# What a shell starts in the background ignores Ctrl-C, and so would all that is started here and sent it.
signal.signal(signal.SIGINT, signal.default_int_handler)

WHOLE_RUN = tuple(f"tests/pipeline/test_{name}.py" for name in ("list", "pipeline", "chaos"))
"""They share a run (`tests/pipeline/conftest.py`), which takes longest."""

CHECKS = ("answers", "forward", "manifest", "texts", "training")
pytest.register_assert_rewrite(*(f"tests.core.golden_{name}" for name in CHECKS))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", metavar="DIR", help="what the reference computed, for tests/core/test_goldens.py")
    parser.addoption(
        "--kills", type=int, default=2, metavar="N", help="how often tests/tasks/fetching/test_kills.py kills a fetch"
    )
    parser.addoption("--long", action="store_true", help="the tests marked long too (`make test-long`)")
    parser.addoption("--chaos", type=int, default=0, metavar="N", help="kill the whole of nano N times (test_chaos.py)")
    parser.addoption("--chaos-seed", type=int, default=0, metavar="SEED", help="of the places where it is killed")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--goldens")
    if folder and not (config.invocation_params.dir / folder / "manifest.json").is_file():
        raise pytest.UsageError(f"--goldens {folder}: there is no manifest.json; tests/goldens shows what is wanted")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Processes share the files (`make test`). What takes longest begins."""
    items.sort(key=lambda item: not item.nodeid.startswith(WHOLE_RUN))
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: --long"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` a file goes to one of the processes, and so do those that share a run."""
    if config.getoption("dist") != "loadfile":
        return None

    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return WHOLE_RUN[0] if nodeid.startswith(WHOLE_RUN) else super()._split_scope(nodeid)

    return Files(config, log)
