"""What the original computed, computed by ours: every file of a folder of goldens, an item for each comparison.

pytest tests/core/test_goldens.py --goldens DIR

Without the option on the copies in `tests/goldens`. Numbers are within 1e-4, ids identical.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.core import golden_answers, golden_forward, golden_manifest, golden_texts, golden_training
from tests.core.reference import GOLDENS, Check, Goldens


def all_checks(goldens: Goldens) -> Iterator[Check]:
    for case in goldens.named("cases"):
        yield from or_a_failure(case, partial(case_checks, goldens, case))
    for name in goldens.named("misc"):
        yield from or_a_failure(name, partial(misc_checks, goldens, name))
    yield from golden_manifest.manifest_checks(goldens)
    yield from golden_texts.dataset_checks(goldens)


def or_a_failure(name: str, checks: Callable[[], Iterator[Check]]) -> list[Check]:
    """The checks; where the files do not even tell which, one that fails for it, so that the others are run."""
    try:
        return list(checks())
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:

        def fail(error: Exception = error) -> None:
            raise error

        return [Check(name=f"{name}-cannot-be-read", files=(), run=fail)]


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
        yield golden_forward.mask_check(goldens, case, told)
    elif "visual_encoder" in tensors:
        yield from golden_forward.vision_checks(goldens, case, told)


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


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with all that the copies have, to which files can be added."""
    for name in ("weights", "checkpoints", "manifest.json"):
        (tmp_path / name).symlink_to(GOLDENS.folder / name)
    for group in ("cases", "misc"):
        (tmp_path / group).mkdir()
        for name in GOLDENS.files(group):
            (tmp_path / name).symlink_to(GOLDENS.folder / name)
    return tmp_path


def test_a_case_without_a_check_is_named(linked: Path):
    for name in ("cases/stage4_new.json", "misc/new.json", "misc/image9.png"):
        (linked / name).write_text("{}")
    save_file({"new": torch.zeros(1)}, linked / "cases" / "stage4_other.safetensors")
    assert without_check(Goldens(linked)) == [
        "cases/stage4_new.json",
        "cases/stage4_other.safetensors",
        "misc/image9.png",
        "misc/new.json",
    ]


def test_a_case_that_cannot_be_read_fails_and_the_others_are_checked(linked: Path):
    (linked / "cases" / "stage4_cut.json").write_text("{")
    checks = list(all_checks(Goldens(linked)))
    (failing,) = [check for check in checks if check.name == "stage4_cut-cannot-be-read"]
    with pytest.raises(ValueError, match="Expecting property name"):
        failing.run()
    assert len(checks) == 1 + len(list(all_checks(GOLDENS)))


def test_a_name_may_have_dots_of_its_own(linked: Path):
    name = next(name for name in GOLDENS.named("cases") if name.startswith("stage4_generate"))
    for ending in ("json", "safetensors"):
        (linked / "cases" / f"{name}_1.3.{ending}").symlink_to(GOLDENS.folder / "cases" / f"{name}.{ending}")
    found = [check.name for check in all_checks(Goldens(linked)) if check.name.startswith(f"{name}_1.3-")]
    assert f"{name}_1.3-generated_ids" in found and without_check(Goldens(linked)) == []
