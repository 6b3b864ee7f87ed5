"""Score a model on questions about pictures, beside a control: the same questions with other pictures.

What a model can guess from the question alone it also scores in the control, so that only the distance
between the two says something about seeing.
"""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tinygptv_core import evals
from tinygptv_core.answer import Asked, Progress, Trained, answer, see
from tinygptv_core.features import PICTURES_AT_ONCE, Features
from tinygptv_core.plain import ConfigError
from tinygptv_core.shards import Sample

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

RESAMPLES = 2_000
RESAMPLING_SEED = 0


class Samples(Protocol):
    """A data set to read from: `tinygptv_core.shards.ShardSet`."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Sample: ...


@dataclass(frozen=True, kw_only=True)
class Question:
    """One sample of an evaluation; `picture` counts the distinct pictures in order of appearance."""

    key: str
    text: str
    references: tuple[str, ...]
    group: str
    picture: int


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean score, 0..1, and the limits of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Score(Interval):
    """The score on `n` questions. `control` is None when no question could be given another picture."""

    n: int
    control: Interval | None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A line of answers.jsonl. What belongs to the control is None for a question that has none."""

    eval: str
    key: str
    question: str
    answer: str
    references: tuple[str, ...]
    score: float
    control_answer: str | None
    control_score: float | None
    control_key: str | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """`scores`: evaluation -> metric -> score; `answers` in the evaluations' and the samples' order."""

    scores: Mapping[str, Mapping[str, Score]]
    answers: tuple[Answered, ...]


class Gallery:
    """Pictures as the language model sees them. Each distinct file goes through the tower once."""

    def __init__(self, trained: Trained, features: Features | None) -> None:
        self._trained, self._features = trained, features
        self._positions: dict[bytes, int] = {}
        self._waiting: list[bytes] = []
        self._seen: list[Tensor] = []

    def add(self, picture: bytes) -> int:
        """The position of `picture` (an encoded file) in `tokens`."""
        digest = hashlib.sha256(picture).digest()
        if digest not in self._positions:
            self._positions[digest] = len(self._positions)
            self._waiting.append(picture)
            if len(self._waiting) == PICTURES_AT_ONCE:
                self._look()
        return self._positions[digest]

    def tokens(self) -> Tensor:
        """image_PQD of all P pictures that were added."""
        if self._waiting:
            self._look()
        return torch.cat(self._seen)

    def _look(self) -> None:
        self._seen.append(see(self._trained, self._waiting, self._features))
        self._waiting = []


def evaluate(
    trained: Trained,
    names: Sequence[str],
    data: Mapping[str, Samples],
    progress: Progress,
    features: Features | None = None,
) -> Results:
    """Score `trained` on the evaluations `names`, each with its control.

    Args:
        data: every data set that one of the evaluations reads.
        features: kept vision tokens; used if they are of all these data sets.

    Raises:
        ConfigError: no such evaluation, or its data set has no sample of its split; says what there is.
        ValueError: a sample has no picture, no question and no request for one, or no answer.
    """
    gallery = Gallery(trained, features if features and features.datasets >= data.keys() else None)
    questions = {name: _questions(name, data[evals.load(name).dataset], gallery) for name in names}
    image_PQD = gallery.tokens()
    answers = [line for name in names for line in _answered(trained, name, questions[name], image_PQD, progress)]
    scores = {name: {evals.load(name).metric: score([line for line in answers if line.eval == name])} for name in names}
    return Results(scores=scores, answers=tuple(answers))


def _questions(name: str, samples: Samples, gallery: Gallery) -> list[Question]:
    evaluation = evals.load(name)
    found: list[Question] = []
    splits: set[str] = set()
    for position in range(len(samples)):
        sample = samples[position]
        splits.add(str(sample.split))
        if sample.split == evaluation.split:
            found.append(_question(name, sample, gallery))
    if not found:
        raise ConfigError(
            f"{evaluation.dataset} has no sample of split {evaluation.split}, which evaluation {name} reads. "
            f"Its splits are: {', '.join(sorted(splits)) or 'none, for it is empty'}."
        )
    return found


def _question(name: str, sample: Sample, gallery: Gallery) -> Question:
    references = tuple(turn.text for turn in sample.turns if turn.role == "assistant")
    if sample.picture is None or not references:
        lacking = "picture" if sample.picture is None else "answer to compare with"
        raise ValueError(f"sample {sample.key}, which evaluation {name} asks about, has no {lacking}")
    return Question(
        key=sample.key,
        text=next((turn.text for turn in sample.turns if turn.role == "user"), ""),
        references=references,
        group=sample.group or "",
        picture=gallery.add(sample.picture),
    )


def _answered(
    trained: Trained, name: str, questions: Sequence[Question], image_PQD: Tensor, progress: Progress
) -> list[Answered]:
    evaluation = evals.load(name)
    donors = control_of(questions, seed=name)
    own = [_asked(evaluation, question, question.picture) for question in questions]
    other = [
        _asked(evaluation, question, questions[donor].picture)
        for question, donor in zip(questions, donors, strict=True)
        if donor is not None
    ]
    texts = answer(
        trained,
        [*own, *other],
        image_PQD,
        evaluation.max_new_tokens,
        lambda done, total, what: progress(done, total, f"{name}: {what}"),
    )
    controls = iter(texts[len(own) :])
    return [
        _line(name, question, text, next(controls), questions[donor].key)
        if donor is not None
        else _line(name, question, text, None, None)
        for question, text, donor in zip(questions, texts[: len(own)], donors, strict=True)
    ]


def _asked(evaluation: evals.Eval, question: Question, picture: int) -> Asked:
    return Asked(text=question.text, prompt=evaluation.prompt, picture=picture)


def _line(name: str, question: Question, text: str, control: str | None, donor: str | None) -> Answered:
    evaluation = evals.load(name)
    return Answered(
        eval=name,
        key=question.key,
        question=question.text,
        answer=text,
        references=question.references,
        score=float(evaluation.score(text, question.references)),
        control_answer=control,
        control_score=None if control is None else float(evaluation.score(control, question.references)),
        control_key=donor,
    )


def control_of(questions: Sequence[Question], seed: str) -> list[int | None]:
    """For each question the position of the one whose picture it is asked about in the control.

    Within each question type (`group`) the pictures are exchanged so that nobody keeps their own, nor a
    bit-identical one. None where that cannot be: a type with a single picture, or the surplus of a
    picture that more than half of a type's questions are about. Pure in the questions and `seed`.
    """
    donors: list[int | None] = [None] * len(questions)
    for group in sorted({question.group for question in questions}):
        members = [position for position, question in enumerate(questions) if question.group == group]
        turned = derange([questions[position].picture for position in members], f"{seed} {group}")
        for position, other in zip(members, turned, strict=True):
            donors[position] = None if other is None else members[other]
    return donors


def derange(items: Sequence[int], seed: str) -> list[int | None]:
    """For each position another position, each given once, whose item differs; None where there is none left.

    Equal items stand together on a ring, otherwise shuffled, and each takes the item as many places
    further on as the commonest item is frequent: no run of equal items is that long, so that an item
    meets its equal only if it fills more than half of the ring.
    """
    generator = random.Random(seed)
    counts = Counter(items)
    rank = dict(zip(sorted(counts), generator.sample(range(len(counts)), len(counts)), strict=True))
    ring = list(range(len(items)))
    generator.shuffle(ring)
    ring.sort(key=lambda position: rank[items[position]])
    shift = max(counts.values(), default=0)
    donors: list[int | None] = [None] * len(items)
    for place, position in enumerate(ring):
        other = ring[(place + shift) % len(ring)]
        donors[position] = other if items[other] != items[position] else None
    return donors


def score(answers: Sequence[Answered]) -> Score:
    """The mean score of `answers` (at least one) and of their control, with 95 % intervals."""
    own = interval([line.score for line in answers])
    controls = [line.control_score for line in answers if line.control_score is not None]
    return Score(**asdict(own), n=len(answers), control=interval(controls) if controls else None)


def interval(scores: Sequence[float]) -> Interval:
    """The mean of `scores` with its 95 % interval: Wilson's when all are 0 or 1, else by bootstrap."""
    return wilson(sum(map(int, scores)), len(scores)) if set(scores) <= {0.0, 1.0} else bootstrap(scores)


def wilson(hits: int, n: int) -> Interval:
    """The share of hits among `n` (at least 1) with the score interval of 95 %.

    Source: E. B. Wilson, 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    share, square = hits / n, Z_95**2
    middle = share + square / (2 * n)
    reach = Z_95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    scale = 1 + square / n
    low = (middle - reach) / scale if hits else 0.0  # exactly: the difference of two equal numbers is not
    high = (middle + reach) / scale if hits < n else 1.0
    return Interval(value=share, low=low, high=high)


def bootstrap(scores: Sequence[float]) -> Interval:
    """The mean with the percentile bootstrap's 95 % interval over questions, each drawn by itself; seeded.

    Source: B. Efron, 1979, Annals of Statistics 7, 1-26; the percentile limits of his 1981 paper.
    """
    values = np.asarray(scores, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(RESAMPLING_SEED))
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(value=math.fsum(scores) / len(scores), low=float(low), high=float(high))


def write_results(results: Results, folder: Path) -> None:
    """Write scores.json and answers.jsonl (docs/map.md) into `folder`: the same bytes for the same results."""
    scores = {name: {metric: asdict(one) for metric, one in of.items()} for name, of in results.scores.items()}
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    lines = (json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in results.answers)
    (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
