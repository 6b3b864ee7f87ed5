"""The checks of goldens on a folder of other sizes: they hold, and each fails where the folder says otherwise."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.core import other_goldens
from tests.core.reference import Check, Goldens
from tests.core.test_goldens import all_checks, without_check

COMPARED = {
    "sequence_ids": ("embed_calls_token_ids",),
    "question_ids": ("embed_calls_token_ids",),
    "texts": ("generated_ids",),
    "loss": ("steps", -1, "loss"),
    "lr": ("steps", -1, "lr"),
    "exported": ("checkpoint_top_level_keys",),
    "llm_config": ("llm_config", "rope_theta"),
}
"""What in the file a check of another name compares with; `loss` and `lr` are those of trajectories."""


class Altered(Goldens):
    """A folder of which one thing is read otherwise than it stands there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file, self.path = "", tuple[str | int, ...]()
        self.tensors = self._altered_tensors

    @property
    def manifest(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride] -- it is altered too
        return self.told("manifest")

    def told(self, name: str) -> Any:
        told = super().told(name)
        return altered(told, self.path) if name == self.file else told

    def _altered_tensors(self, name: str) -> dict[str, Tensor]:
        tensors = self._tensors(name)
        return altered(tensors, self.path) if name == self.file else tensors

    def alter_what_is_compared(self, check: Check) -> None:
        where, _, field = check.name.partition("-")
        if where in ("manifest", *self.manifest["stages"]):
            of_stage = () if where == "manifest" else ("stages", where)
            self.file, self.path = "manifest", (*of_stage, *COMPARED.get(field, (field,)))
        elif field in ("grads", "weights"):
            self.file = f"cases/{where}.grads" if field == "grads" else f"misc/{where}.final"
            self.path = ("llama_proj2.weight",)
        else:
            is_case = not where.startswith("trajectory")
            self.file = f"cases/{where}" if is_case else f"misc/{where}"
            self.path = (field,) if is_case and field == "loss" else COMPARED.get(field, (field,))


def altered(value: Any, path: tuple[str | int, ...]) -> Any:
    """`value` with what stands at `path` a little off, if there is anything."""
    if not path:
        return slightly_off(value)
    if isinstance(value, dict) and path[0] not in value:
        return value
    made = value.copy()
    made[path[0]] = altered(value[path[0]], path[1:])
    return made


def slightly_off(value: Any) -> Any:
    """Of a tensor, list or mapping the first and the last: one of them is no padding."""
    if isinstance(value, Tensor):
        made = value.clone() if len(value) else value.new_zeros(1)
        made.view(-1)[[0, -1]] += 1e-3 if value.is_floating_point() else 1
        return made
    if isinstance(value, dict):
        ends = (next(iter(value)), next(reversed(value)))
        return {name: slightly_off(item) if name in ends else item for name, item in value.items()}
    if isinstance(value, list):
        return (
            [slightly_off(value[0]), *value[1:-1], *([slightly_off(value[-1])] if len(value) > 1 else [])]
            if value
            else ["x"]
        )
    return value + ("x" if isinstance(value, str) else 1 if isinstance(value, int) else 1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "goldens"
    other_goldens.write(folder)
    return folder


def failing(goldens: Goldens) -> Iterator[str]:
    for check in all_checks(goldens):
        try:
            check.run()
        except AssertionError as error:
            yield f"{check.name}: {error}"


def test_every_check_holds_on_a_folder_of_other_sizes(folder):
    goldens = Goldens(folder)
    assert list(failing(goldens)) == []
    assert len(list(all_checks(goldens))) >= 100 and without_check(goldens) == []


def test_every_check_fails_where_the_folder_says_otherwise(folder):
    goldens = Altered(folder)
    for number, check in enumerate(list(all_checks(goldens))):
        goldens.alter_what_is_compared(check)
        (again,) = islice(all_checks(goldens), number, number + 1)
        with pytest.raises(AssertionError):
            again.run()
        goldens.file = ""
