from pathlib import Path

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
