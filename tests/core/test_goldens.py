"""What the original computed, computed by ours: every file of a folder of goldens, an item for each comparison.

pytest tests/core/test_goldens.py --goldens DIR

Without the option on the copies in `tests/goldens`. Numbers are within 1e-4, ids identical.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core import golden_answers, golden_forward, golden_texts, golden_training
from tests.core.reference import GOLDENS, Check, Goldens


def all_checks(goldens: Goldens) -> Iterator[Check]:
    for case in sorted({Path(name).name.split(".")[0] for name in goldens.files("cases")}):
        yield from case_checks(goldens, case)
    for name in sorted({Path(name).name.split(".")[0] for name in goldens.files("misc")}):
        yield from misc_checks(goldens, name)
    yield from golden_training.manifest_checks(goldens)
    yield from golden_texts.dataset_checks(goldens)


def case_checks(goldens: Goldens, case: str) -> Iterator[Check]:
    """By what the case's files hold."""
    told = goldens.told(f"cases/{case}") if f"cases/{case}.json" in goldens.files("cases") else {}
    has_tensors = f"cases/{case}.safetensors" in goldens.files("cases")
    tensors = goldens.tensors(f"cases/{case}") if has_tensors else {}
    if "loss" in told:
        yield from golden_forward.forward_checks(goldens, case)
    elif "generated_ids" in told:
        yield from golden_answers.answer_checks(goldens, case)
    elif "per_sample_losses" in told:
        yield from golden_answers.choice_checks(goldens, case)
    elif "input_ids" in tensors:
        yield golden_forward.mask_check(goldens, case)
    elif "visual_encoder" in tensors:
        yield from golden_forward.vision_checks(goldens, case)


def misc_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    """By the file's name; pictures belong to the image processor's numbers."""
    known = {
        "lr_schedule": golden_training.schedule_checks,
        "full_size_parameters": golden_training.full_size_checks,
        "image_processor": golden_texts.picture_checks,
        "caption_processor": golden_texts.caption_checks,
        "tokenizer": golden_texts.tokenizer_checks,
        "sampling": golden_texts.sampling_checks,
        "conversation": golden_texts.conversation_checks,
    }
    if name in known:
        yield from known[name](goldens, name)
    elif name == "alignment":
        yield golden_texts.prompt_check(goldens, name)
    elif name.startswith("trajectory_"):
        yield from golden_training.trajectory_checks(goldens, name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.getoption("--goldens")
    goldens = Goldens(Path(folder)) if folder else GOLDENS
    if "check" in metafunc.fixturenames:
        checks = list(all_checks(goldens))
        metafunc.parametrize("check", checks, ids=[check.name for check in checks])
    if "unchecked" in metafunc.fixturenames:
        metafunc.parametrize("unchecked", [goldens], ids=["files"])


def test_ours_is_the_references(check: Check):
    check.run()


def test_every_case_has_a_check(unchecked: Goldens):
    covered = {name for check in all_checks(unchecked) for name in check.files}
    assert sorted({*unchecked.files("cases"), *unchecked.files("misc")} - covered) == []
