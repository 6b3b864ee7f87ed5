"""Score a model on questions about pictures, beside a control: the same questions with other pictures.

What a model can guess from the question alone it also scores in the control, so that only the distance
between the two says something about seeing.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tinygptv_core import evals
from tinygptv_core.answer import PictureQuestion, Trained, answer, picture_tokens, ranked
from tinygptv_core.answering.decoding import greedy
from tinygptv_core.answering.intervals import Interval, auroc, interval
from tinygptv_core.compute import Progress
from tinygptv_core.features import PICTURES_AT_ONCE, Features
from tinygptv_core.plain import ConfigError
from tinygptv_core.shards import Sample


class Samples(Protocol):
    """A data set to read from: `tinygptv_core.shards.ShardSet`."""

    def texts(self) -> Iterator[Sample]:
        """Every sample without its picture, in order."""
        ...

    def read(self, positions: Sequence[int]) -> list[Sample]:
        """The samples at `positions`."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvalQuestion:
    """One sample of an evaluation; `picture` counts the distinct pictures in order of appearance.

    `choices` are what it may be answered with; none where it is answered in free words.
    """

    key: str
    text: str
    references: tuple[str, ...]
    group: str
    picture: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Score(Interval):
    """The score on `n` questions. `control` is None when no question could be given another picture."""

    n: int
    control: Interval | None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A question with its answer: all but `picture` is a line of answers.jsonl. Without a control its fields are None.

    Attributes:
        picture: as the question's.
        probability: of the answer that `Eval.probability_of` names, where it names one.
    """

    eval: str
    key: str
    question: str
    answer: str
    references: tuple[str, ...]
    score: float
    control_answer: str | None
    control_score: float | None
    control_key: str | None
    picture: int
    probability: float | None = None
    control_probability: float | None = None


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
        self._seen.append(picture_tokens(self._trained, self._waiting, self._features))
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
        ConfigError: no such evaluation, or its data set has no sample of its split; says what there is. Or a score is
            none, for the first question before any is asked.
        ValueError: a sample has no picture, no question and no request for one, or no answer.
    """
    gallery = Gallery(trained, features if features and features.datasets >= data.keys() else None)
    questions = {name: _questions(name, data[evals.load(name).dataset], gallery) for name in names}
    for name in names:
        _try_scores(name, questions[name][0])
    image_PQD = gallery.tokens()
    answers = [line for name in names for line in _answered(trained, name, questions[name], image_PQD, progress)]
    scores = {name: scores_of(evals.load(name), [line for line in answers if line.eval == name]) for name in names}
    return Results(scores=scores, answers=tuple(answers))


def scores_of(evaluation: evals.Eval, answers: Sequence[Answered]) -> dict[str, Score]:
    """Every metric of one evaluation, its own first."""
    found = {evaluation.metric: score(answers)}
    for beside in evaluation.beside:
        lines = _first_of_each_picture(answers) if beside.once_per_picture else answers
        found[beside.metric] = score([_scored_by(beside.score, line) for line in lines])
    if evaluation.probability_of:
        found["auroc"] = _auroc_score(answers, evaluation.probability_of[0])
    return found


def _scored_by(scoring: evals.Scoring, line: Answered) -> Answered:
    scored = partial(evals.scored, line.eval, scoring, line.key, references=line.references)
    control = None if line.control_answer is None else scored(line.control_answer)
    return replace(line, score=scored(line.answer), control_score=control)


def _first_of_each_picture(answers: Sequence[Answered]) -> list[Answered]:
    first: dict[int, Answered] = {}
    for line in answers:
        first.setdefault(line.picture, line)
    return list(first.values())


def _auroc_score(answers: Sequence[Answered], positive: str) -> Score:
    """How well the probabilities of `positive` tell the questions whose reference it is from the others."""
    own = auroc([line.probability or 0.0 for line in answers], [line.references[0] == positive for line in answers])
    asked = [line for line in answers if line.control_probability is not None]
    control = auroc(
        [line.control_probability or 0.0 for line in asked], [line.references[0] == positive for line in asked]
    )
    return Score(**asdict(own), n=len(answers), control=control if asked else None)


def _questions(name: str, samples: Samples, gallery: Gallery) -> list[EvalQuestion]:
    evaluation = evals.load(name)
    splits = [sample.split for sample in samples.texts()]
    chosen = [position for position, split in enumerate(splits) if evaluation.split in (None, split)]
    if not chosen:
        raise ConfigError(
            f"{evaluation.dataset} has no sample of split {evaluation.split}, which evaluation {name} reads. "
            f"Its splits are: {', '.join(sorted(set(map(str, splits)))) or 'none, for it is empty'}."
        )
    chunks = [chosen[start : start + PICTURES_AT_ONCE] for start in range(0, len(chosen), PICTURES_AT_ONCE)]
    return [_question(name, sample, gallery) for chunk in chunks for sample in samples.read(chunk)]


def _question(name: str, sample: Sample, gallery: Gallery) -> EvalQuestion:
    references = tuple(text for turn in sample.turns if turn.role == "assistant" for text in turn.texts)
    if sample.picture is None or not references:
        lacking = "picture" if sample.picture is None else "answer to compare with"
        raise ValueError(f"sample {sample.key}, which evaluation {name} asks about, has no {lacking}")
    return EvalQuestion(
        key=sample.key,
        text=next((turn.text for turn in sample.turns if turn.role == "user"), ""),
        references=references,
        group=sample.group or "",
        picture=gallery.add(sample.picture),
        choices=tuple(turn.text for turn in sample.turns if turn.role == "choice"),
    )


def _answered(
    trained: Trained, name: str, questions: Sequence[EvalQuestion], image_PQD: Tensor, progress: Progress
) -> list[Answered]:
    evaluation = evals.load(name)
    donors = control_of(questions, seed=name)
    own = [_asked(evaluation, question, question.picture) for question in questions]
    other = [
        _asked(evaluation, question, questions[donor].picture)
        for question, donor in zip(questions, donors, strict=True)
        if donor is not None
    ]
    asked = [*own, *other]
    choices = [question.choices for question in questions]
    choices += [question.choices for question, donor in zip(questions, donors, strict=True) if donor is not None]

    def told(done: int, total: int, what: str) -> None:
        progress(done, total, f"{name}: {what}")

    texts = _answers(trained, asked, choices, image_PQD, evaluation.max_new_tokens, told)
    likely = probabilities(trained, asked, evaluation.probability_of, image_PQD, told)
    replies = list(zip(texts, likely, strict=True))
    controls = iter(replies[len(own) :])
    return [
        _line(name, question, reply, None, None)
        if donor is None
        else _line(name, question, reply, next(controls), questions[donor].key)
        for question, reply, donor in zip(questions, replies[: len(own)], donors, strict=True)
    ]


def _answers(
    trained: Trained,
    asked: Sequence[PictureQuestion],
    choices: Sequence[tuple[str, ...]],
    image_PQD: Tensor,
    max_new_tokens: int,
    progress: Progress,
) -> list[str]:
    """In free words, or where a question has choices the likeliest of them."""
    if not any(choices):
        return answer(trained, asked, image_PQD, greedy(max_new_tokens, stop=trained.form.end_symbol), progress)
    if not all(choices):
        raise ValueError("some questions have choices and some have none; an evaluation has them all alike")
    rankings = ranked(trained, asked, choices, image_PQD, progress)
    return [of_one[ranking.order[0]] for of_one, ranking in zip(choices, rankings, strict=True)]


def probabilities(
    trained: Trained,
    asked: Sequence[PictureQuestion],
    of: tuple[str, str] | None,
    image_PQD: Tensor,
    progress: Progress,
) -> list[float | None]:
    """For each question the probability of the first of two answers, when there are no others; None without `of`."""
    if of is None:
        return [None] * len(asked)
    rankings = ranked(trained, asked, [of] * len(asked), image_PQD, progress)
    apart = torch.tensor([ranking.sums[1] - ranking.sums[0] for ranking in rankings], dtype=torch.float64)
    return list(apart.sigmoid().tolist())


def _try_scores(name: str, question: EvalQuestion) -> None:
    """Score two answers that may be given, so that a mistake in `score` is found before all questions are answered."""
    evaluation = evals.load(name)
    for scoring in (evaluation.score, *(beside.score for beside in evaluation.beside)):
        for text in question.choices or ("", question.references[0]):
            evals.scored(name, scoring, question.key, text, question.references)


def _asked(evaluation: evals.Eval, question: EvalQuestion, picture: int) -> PictureQuestion:
    text = question.text if evaluation.has_questions else ""
    return PictureQuestion(text=text, prompt=evaluation.prompt, picture=picture)


Reply = tuple[str, float | None]
"""An answer, and the probability of the one that `Eval.probability_of` names."""


def _line(name: str, question: EvalQuestion, own: Reply, control: Reply | None, donor: str | None) -> Answered:
    scored = partial(evals.scored, name, evals.load(name).score, question.key, references=question.references)
    return Answered(
        eval=name,
        key=question.key,
        question=question.text,
        answer=own[0],
        references=question.references,
        score=scored(own[0]),
        control_answer=control[0] if control else None,
        control_score=scored(control[0]) if control else None,
        control_key=donor,
        picture=question.picture,
        probability=own[1],
        control_probability=control[1] if control else None,
    )


def control_of(questions: Sequence[EvalQuestion], seed: str) -> list[int | None]:
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


def write_results(results: Results, folder: Path) -> None:
    """Write scores.json and answers.jsonl (docs/map.md) into `folder`: the same bytes for the same results."""
    scores = {name: {metric: asdict(one) for metric, one in of.items()} for name, of in results.scores.items()}
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    lines = (json.dumps(_written(line), ensure_ascii=False) + "\n" for line in results.answers)
    (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")


def _written(line: Answered) -> dict[str, object]:
    """What answers.jsonl says of an answer."""
    told = asdict(line)
    unsaid = [name for name in ("probability", "control_probability") if told[name] is None]
    return {name: value for name, value in told.items() if name not in ("picture", *unsaid)}
