"""What a model is scored on: one file an evaluation, named as the evaluation."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY, ConfigError, unknown
from tinygptv_core.user_code import line_defined, line_raised, number_in

Scoring = Callable[[str, Sequence[str]], float]
"""(answer, references) -> 0..1. References are the sample's own answers."""

ROUNDING = 1e-9
"""So far beyond 0..1 a score is taken for 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class SecondaryMetric:
    """A second way to score the same answers: mostly the paper's own protocol, beside the strict one.

    Attributes:
        metric: what the score is called.
        score: as `Eval.score`.
        once_per_picture: of the questions about one picture the first alone counts.
    """

    metric: str
    score: Scoring = field(metadata=NOT_IDENTITY)
    once_per_picture: bool = False


@dataclass(frozen=True, kw_only=True)
class Eval:
    """One evaluation. A sample with choices is answered with the likeliest (`answering/rank.py`), not in free words.

    Attributes:
        version: raised when `score`, or one beside it, changes what it returns.
        dataset: the data set whose samples are asked, and of it the `split`; None asks all of them.
        prompt: the user's words, `{}` for the sample's question. The stage's template goes around it.
        max_new_tokens: where an answer is cut.
        metric: what the score is called.
        score: (answer, references) -> 0..1. References are the sample's own answers.
        beside: other scores of the same answers.
        probability_of: (an answer, the only other one); adds the metric `auroc`: how well the probability of the first
            tells the samples whose reference it is from the others.
    """

    version: int
    dataset: str
    split: str | None
    prompt: str
    max_new_tokens: int
    metric: str
    score: Scoring = field(metadata=NOT_IDENTITY)
    beside: tuple[SecondaryMetric, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)
    probability_of: tuple[str, str] | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)

    @property
    def has_questions(self) -> bool:
        """Whether the samples' own questions are asked, and not the same of every picture."""
        return "{}" in self.prompt


@cache
def names() -> tuple[str, ...]:
    """Of all evaluations, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@cache
def load(name: str) -> Eval:
    """The evaluation in `tinygptv_core/evals/<name>.py`.

    Raises:
        ConfigError: there is no such file; says which there are.
    """
    if name not in names():
        raise ConfigError(unknown("evaluation ", name, list(names())))
    return importlib.import_module(f"{__name__}.{name}").EVAL


def scored(name: str, scoring: Scoring, key: str, answer: str, references: Sequence[str]) -> float:
    """The score of an answer to the question `key` of the evaluation `name`, by its `score` or one beside it.

    Raises:
        ConfigError: `scoring` fails, or does not return a number in 0..1; says where it is written.
    """
    where = f"evaluation {name}, question {key}: the score of the answer {answer!r:.80}"
    try:
        given = scoring(answer, references)
    except MemoryError:  # no fault of the score's
        raise
    except Exception as error:
        line = line_raised(error, __file__)
        raise ConfigError(f"{where} failed: {type(error).__name__}: {error} ({line})") from error
    score = number_in(given)
    if not -ROUNDING <= score <= 1 + ROUNDING:  # no NaN either
        raise ConfigError(f"{where} is {given!r:.80}; it must be a number in 0..1 ({line_defined(scoring)})")
    return min(max(score, 0.0), 1.0)
