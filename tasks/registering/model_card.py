"""A model's card, in Markdown: how it is asked, what it scored, on what it was trained, its limits and its lineage.

Made from the facts that it is given alone, so that the same model has the same card on every machine and day.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.quantities import interval, percent
from tasks.reporting.markdown import table
from tasks.request import SHORT
from tinygptv_core.stages import Stage

if TYPE_CHECKING:
    from tinygptv_core.answer import ModelCard

DESCRIPTION_CHARACTERS = 5_000
"""What MLflow's database takes as the description of a version."""
CUT = "... the rest is in card.md among the version's artifacts"
MOST_REASONS = 3

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""evaluation -> metric -> score, as `scores.json` has it."""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """A data set that a stage drew from; the counts are of its table, from filter to screen."""

    name: str
    stages: tuple[str, ...]
    licence: str
    citation: str
    rows: int
    kept: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ModelCardFacts:
    """What a card says beyond the model itself.

    Attributes:
        name: the model's in the registry.
        scores: "fresh" and every stage that was scored, in order; the last is this model's.
        sources: step -> the digest of what it made, of everything that the model came from.
        init: the stage whose checkpoint was given: what that was trained on is not known.
    """

    name: str
    data: tuple[TrainedOn, ...]
    scores: Mapping[str, Scores]
    sources: Mapping[str, str]
    init: str | None


def card_text(facts: ModelCardFacts, stage: Stage, model: "ModelCard") -> str:
    """The card of a model whose last stage is `stage`."""
    parts = [
        _head(facts, stage, model),
        _asking(facts, stage, model),
        _scores(facts),
        _data(facts),
        _limits(facts, stage),
        _lineage(facts),
    ]
    return "\n\n".join(parts) + "\n"


def description(card: str) -> str:
    """As much of a card, in whole lines, as the registry takes for a description."""
    if len(card) <= DESCRIPTION_CHARACTERS:
        return card
    whole = card[: DESCRIPTION_CHARACTERS - len(CUT) - 2].rpartition("\n")[0]
    return f"{whole}\n\n{CUT}"


def _head(facts: ModelCardFacts, stage: Stage, model: "ModelCard") -> str:
    adapters = f"LoRA adapters of rank {stage.lora.rank}, " if stage.lora else ""
    without = f" It does without {', '.join(stage.without)}." if stage.without else ""
    return (
        f"# {facts.name}, after {stage.name}\n\n"
        "A vision-language model in the form of TinyGPT-V (arXiv:2312.16862): a frozen vision tower, Q-Former and "
        f"language model (`{model.backbones}`, {_short(model.backbones_digest)}), and what was trained: projections, "
        f"{adapters}"
        f"norms (checkpoint {_short(model.checkpoint_digest)}).{without}"
    )


def _asking(facts: ModelCardFacts, stage: Stage, model: "ModelCard") -> str:
    reference = f"models:/{facts.name}@challenger"
    return (
        "## How to ask it\n\n"
        "```\n"
        f'tinygptv ask {reference} picture.jpg "what is in the picture?"\n'
        f"mlflow models serve -m {reference} --env-manager local --port 5005\n"
        'curl 127.0.0.1:5005/invocations -H "Content-Type: application/json" \\\n'
        '  -d \'{"inputs": [{"image": "<base64 of a picture>", "question": "what is in the picture?"}]}\'\n'
        "```\n\n"
        f"A question is asked as {_code(model.prompt)}, unless it begins with a task word in brackets. A picture is "
        f"resized to {stage.image_size} x {stage.image_size} pixels. An answer ends after {model.max_new_tokens} "
        f"tokens at the latest. Precision: {model.precision}."
    )


def _scores(facts: ModelCardFacts) -> str:
    last = list(facts.scores)[-1]
    head = ("evaluation", "metric", "value", "95 %", "control", "95 % of it", "questions")
    rows = [
        (
            evaluation,
            metric,
            percent(score["value"]),
            interval(score),
            percent(score["control"]["value"]) if score["control"] else "none",
            interval(score["control"]) if score["control"] else "",
            f"{score['n']:,}",
        )
        for evaluation, metric, score in _each(facts.scores[last])
    ]
    ways = [(name, *(_way(scores, e, m) for e, m, _ in _each(facts.scores[last]))) for name, scores in _of(facts)]
    columns = ("after", *(f"{evaluation}: {metric}" for evaluation, metric, _ in _each(facts.scores[last])))
    return (
        f"## Scores\n\n{table(head, rows)}\n\n"
        "The control asks the same questions about other questions' pictures: what is above it, the picture gave.\n\n"
        f"{table(columns, ways)}"
    )


def _of(facts: ModelCardFacts) -> Iterator[tuple[str, Scores]]:
    for name, scores in facts.scores.items():
        yield ("no training" if name == "fresh" else name), scores


def _way(scores: Scores, evaluation: str, metric: str) -> str:
    score = scores.get(evaluation, {}).get(metric)
    return percent(score["value"]) if score else ""


def _data(facts: ModelCardFacts) -> str:
    head = ("data set", "drawn by", "licence", "rows", "kept", "dropped", "citation")
    rows = [
        (
            item.name,
            ", ".join(item.stages),
            item.licence,
            f"{item.rows:,}",
            f"{item.kept:,}",
            _reasons(item.dropped),
            item.citation,
        )
        for item in facts.data
    ]
    return f"## Trained on\n\n{table(head, rows) if rows else 'Nothing that is known here.'}"


def _reasons(dropped: Mapping[str, int]) -> str:
    order = sorted((-count, reason) for reason, count in dropped.items() if count)
    told = [f"{-count:,} {reason}" for count, reason in order[:MOST_REASONS]]
    rest = -sum(count for count, _ in order[MOST_REASONS:])
    return ", ".join([*told, *([f"{rest:,} for other reasons"] if rest else [])]) or "none"


def _limits(facts: ModelCardFacts, stage: Stage) -> str:
    scores = facts.scores[list(facts.scores)[-1]]
    told = [
        f"It was scored on {', '.join(scores)} alone; what it does elsewhere is not known.",
        *_unproven(scores),
        f"It sees one picture, as a square of {stage.image_size} pixels: what is small or long in it is lost.",
        "Nothing was done to keep it from saying what is wrong, harmful or biased; what the backbones learned before, "
        "and the captions of the data, it may repeat.",
        "The licences of the data and of the backbones bind whoever uses it.",
    ]
    if facts.init:
        told.insert(1, f"It goes on from a given checkpoint of {facts.init}: on what that was trained is not known.")
    return "## Limits\n\n" + "\n".join(f"* {line}" for line in told)


def _unproven(scores: Scores) -> list[str]:
    """The scores that do not show that the picture was used: their interval reaches down to the control's."""
    names = [
        f"{evaluation}: {metric}"
        for evaluation, metric, score in _each(scores)
        if score["control"] and score["low"] <= score["control"]["high"]
    ]
    untold = [f"{evaluation}: {metric}" for evaluation, metric, score in _each(scores) if not score["control"]]
    shown = f"That it uses the picture is not shown by {', '.join(names)}: the interval reaches the control's."
    return [*([shown] if names else []), *([f"There is no control for {', '.join(untold)}."] if untold else [])]


def _lineage(facts: ModelCardFacts) -> str:
    rows = [(step, f"`{digest}`") for step, digest in sorted(facts.sources.items())]
    return f"## Lineage\n\n{table(('made by', 'digest'), rows)}"


def _each(scores: Scores) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for evaluation, metrics in scores.items():
        for metric, score in metrics.items():
            yield evaluation, metric, score


def _short(digest: str) -> str:
    return f"`{digest[:SHORT]}`"


def _code(text: str) -> str:
    return f"`` {text} ``"
