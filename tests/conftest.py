import pytest

pytest.register_assert_rewrite(
    "tests.core.golden_forward", "tests.core.golden_answers", "tests.core.golden_training", "tests.core.golden_texts"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", metavar="DIR", help="what the reference computed, for tests/core/test_goldens.py")
    parser.addoption(
        "--kills", type=int, default=3, metavar="N", help="how often tests/tasks/test_kills.py kills a fetch"
    )
