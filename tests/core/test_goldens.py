"""What the original computed, computed by ours: every file of a folder of goldens, an item for each comparison.

pytest tests/core/test_goldens.py --goldens DIR

Without the option on the copies in `tests/goldens`. Numbers are within 1e-4, ids identical.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.core import golden_answers, golden_forward, golden_manifest, golden_texts, golden_training
from tests.core.reference import GOLDENS, Check, Goldens


def all_checks(goldens: Goldens) -> Iterator[Check]:
    for case in sorted({Path(name).name.split(".")[0] for name in goldens.files("cases")}):
        yield from case_checks(goldens, case)
    for name in sorted({Path(name).name.split(".")[0] for name in goldens.files("misc")}):
        yield from misc_checks(goldens, name)
    yield from golden_manifest.manifest_checks(goldens)
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
        "full_size_parameters": golden_manifest.full_size_checks,
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


def without_check(goldens: Goldens) -> list[str]:
    covered = {name for check in all_checks(goldens) for name in check.files}
    return sorted({*goldens.files("cases"), *goldens.files("misc")} - covered)


def chosen(config: pytest.Config) -> Goldens:
    folder = config.getoption("--goldens")
    return Goldens(config.invocation_params.dir / folder) if folder else GOLDENS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "check" in metafunc.fixturenames:
        checks = list(all_checks(chosen(metafunc.config)))
        metafunc.parametrize("check", checks, ids=[check.name for check in checks])


def test_ours_is_the_references(check: Check):
    check.run()


def test_every_case_has_a_check(pytestconfig: pytest.Config):
    assert without_check(chosen(pytestconfig)) == []


def test_a_case_without_a_check_is_named(tmp_path: Path):
    for name in ("weights", "checkpoints", "manifest.json"):
        (tmp_path / name).symlink_to(GOLDENS.folder / name)
    for group in ("cases", "misc"):
        (tmp_path / group).mkdir()
        for name in GOLDENS.files(group):
            (tmp_path / name).symlink_to(GOLDENS.folder / name)
    for name in ("cases/stage4_new.json", "misc/new.json", "misc/image9.png"):
        (tmp_path / name).write_text("{}")
    save_file({"new": torch.zeros(1)}, tmp_path / "cases" / "stage4_other.safetensors")
    assert without_check(Goldens(tmp_path)) == [
        "cases/stage4_new.json",
        "cases/stage4_other.safetensors",
        "misc/image9.png",
        "misc/new.json",
    ]
