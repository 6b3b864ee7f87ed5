from pathlib import Path
from typing import Any

import pytest

PIPELINES = Path(__file__).parent / "pipeline"
CHECKS = ("answers", "forward", "manifest", "texts", "training")
pytest.register_assert_rewrite(*(f"tests.core.golden_{name}" for name in CHECKS))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", metavar="DIR", help="what the reference computed, for tests/core/test_goldens.py")
    parser.addoption(
        "--kills", type=int, default=3, metavar="N", help="how often tests/tasks/test_kills.py kills a fetch"
    )


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--goldens")
    if folder and not (config.invocation_params.dir / folder / "manifest.json").is_file():
        raise pytest.UsageError(f"--goldens {folder}: there is no manifest.json; tests/goldens shows what is wanted")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes share the files (`make test`). Whole pipelines take longest, so they begin."""
    items.sort(key=lambda item: PIPELINES not in item.path.parents)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one of the processes, and so do all whole pipelines, which share a run."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/pipeline" if nodeid.startswith("tests/pipeline/") else super()._split_scope(nodeid)

    return Files(config, log)
