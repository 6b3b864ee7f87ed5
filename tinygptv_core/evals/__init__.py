"""What a model is scored on: one file an evaluation, named as the evaluation."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tinygptv_core.plain import NOT_IDENTITY, ConfigError, unknown


@dataclass(frozen=True, kw_only=True)
class Eval:
    """One evaluation.

    Attributes:
        version: raised when `score` changes what it returns.
        dataset: the data set whose samples are asked, and of it the `split`.
        prompt: the user's words, `{}` for the sample's question. The stage's template goes around it.
        max_new_tokens: where an answer is cut.
        metric: what the score is called.
        score: (answer, references) -> 0..1. References are the sample's own answers.
    """

    version: int
    dataset: str
    split: str
    prompt: str
    max_new_tokens: int
    metric: str
    score: Callable[[str, Sequence[str]], float] = field(metadata=NOT_IDENTITY)


def load(name: str) -> Eval:
    """The evaluation in `tinygptv_core/evals/<name>.py`.

    Raises:
        ConfigError: there is no such file; says which there are.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in names:
        raise ConfigError(unknown("evaluation ", name, names))
    return importlib.import_module(f"{__name__}.{name}").EVAL
