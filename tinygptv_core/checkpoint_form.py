"""What a checkpoint says of itself beside its tensors (`stage.json`), read and held against a stage without torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, ConfigError, from_plain
from tinygptv_core.stage import Dialect, Lora, Norm, Stage, asking_template


@dataclass(frozen=True, kw_only=True)
class CheckpointForm:
    """What one must know to read and to ask a checkpoint: the part of its stage that bears on that.

    The rest of the stage (rates, steps, mix) is in the key under which the checkpoint was made, so
    that a change of it which altered no weight ends here.
    """

    name: str
    image_size: int
    lora: Lora | None
    prompt_template: str | None
    eval_template: str
    end_symbol: str
    dialect: Dialect = field(default="tinygptv", metadata=IDENTITY_UNLESS_DEFAULT)
    without: tuple[Norm, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)

    @property
    def asks(self) -> str:
        """The template that a question is asked in (as `Stage.asks`)."""
        return asking_template(self.dialect, self.prompt_template, self.eval_template)


def form_of(stage: Stage) -> CheckpointForm:
    """The part of `stage` that its checkpoint carries."""
    return CheckpointForm(
        name=stage.name,
        image_size=stage.image_size,
        lora=stage.lora,
        prompt_template=stage.prompt_template,
        eval_template=stage.eval_template,
        end_symbol=stage.end_symbol,
        dialect=stage.dialect,
        without=stage.without,
    )


def check_norms(folder: Path, form: CheckpointForm, stage: Stage) -> None:
    """Refuse to go on from a checkpoint whose language model has other norms than the stage's.

    Raises:
        ConfigError: it has.
    """
    if form.without != stage.without:
        raise ConfigError(
            f"the checkpoint in {folder}, of {form.name}, was trained {norms_in_words(form.without)}, "
            f"but {stage.name} trains {norms_in_words(stage.without)}: another model.\n"
            f"  to take it as it is, for every stage  --set {stage.name}.without='{json.dumps(list(form.without))}'"
        )


def norms_in_words(without: Sequence[Norm]) -> str:
    """As in "trained without qk_norm"."""
    return f"without {', '.join(without)}" if without else "with all norms"


def read_form(folder: Path) -> CheckpointForm:
    """The form of the checkpoint in `folder`.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        form = json.loads((folder / "stage.json").read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} holds no checkpoint: there is no stage.json") from error
    except ValueError as error:
        raise ConfigError(f"the checkpoint in {folder} is damaged: {error}") from error
    return from_plain(CheckpointForm, form, f"{folder}/stage.json")
