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


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes share the work (pytest-xdist): a file goes to one of them, and so do all whole pipelines.

    These take longest and share a run, so they begin; what they wait for leaves room for the others.
    """
    for item in items:
        group = "pipeline" if PIPELINES in item.path.parents else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: PIPELINES not in item.path.parents)
