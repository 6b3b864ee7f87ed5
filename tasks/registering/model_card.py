"""A model's card, in Markdown: how it is asked, what it scored, on what it was trained, its limits and its lineage.

Made from the facts that it is given alone, so that the same model has the same card on every machine and day.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.quantities import interval, percent
from tasks.reporting.markdown import table
from tasks.request import SHORT
from tinygptv_core.stage import Stage

if TYPE_CHECKING:
    from tinygptv_core.answer import ModelCard

DESCRIPTION_CHARACTERS = 5_000
"""What MLflow's database takes as the description of a version."""
CUT = "... the rest is in card.md among the version's artifacts"
MOST_REASONS = 10

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""evaluation -> metric -> score, as `scores.json` has it."""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """A data set that a stage drew from; the counts are those of the report: of its list, from rows to screen."""

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
    without = f" It has no {', '.join(stage.without)}." if stage.without else ""
    return (
        f"# {facts.name}, after {stage.name}\n\n"
        "A vision-language model with the architecture of TinyGPT-V (arXiv:2312.16862). Frozen: vision tower, Q-Former "
        f"and language model (`{model.backbones}`, {_short(model.backbones_digest)}). Trained: projections, "
        f"{adapters}"
        f"norms (checkpoint {_short(model.checkpoint_digest)}).{without}"
    )


def _asking(facts: ModelCardFacts, stage: Stage, model: "ModelCard") -> str:
    reference = f"models:/{facts.name}@challenger"
    return (
        "## How to ask it\n\n"
        "MLflow's own commands need the registry's address in `MLFLOW_TRACKING_URI`.\n\n"
        "```\n"
        f'tinygptv ask {reference} picture.jpg "what is in the picture?"\n'
        f"mlflow models serve -m {reference} --env-manager local --port 5005\n"
        'curl 127.0.0.1:5005/invocations -H "Content-Type: application/json" \\\n'
        '  -d \'{"inputs": [{"image": "<base64 of a picture>", "question": "what is in the picture?"}]}\'\n'
        "```\n\n"
        f"A question is put into the prompt {_code(model.prompt)}, unless it begins with a task word in brackets. The "
        f"image is resized to {stage.image_size} x {stage.image_size} pixels. An answer has at most "
        f"{model.max_new_tokens} tokens. Precision: {model.precision}."
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
        "The control asks the same questions about other questions' images. A score above its control shows that the "
        "model uses the image.\n\n"
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
    return f"## Trained on\n\n{table(head, rows) if rows else 'No data set that this run knows of.'}"


def _reasons(dropped: Mapping[str, int]) -> str:
    order = sorted((-count, reason) for reason, count in dropped.items() if count)
    told = [f"{-count:,} {reason}" for count, reason in order[:MOST_REASONS]]
    rest = -sum(count for count, _ in order[MOST_REASONS:])
    return ", ".join([*told, *([f"{rest:,} for other reasons"] if rest else [])]) or "none"


def _limits(facts: ModelCardFacts, stage: Stage) -> str:
    scores = facts.scores[list(facts.scores)[-1]]
    told = [
        f"It was evaluated only on {', '.join(scores)}; how well it does on other tasks is not known.",
        *_unproven(scores),
        f"It sees one image, resized to a square of {stage.image_size} pixels: small details are lost, and long images "
        "are distorted.",
        "It has no safeguards against wrong, harmful or biased answers, and may repeat what the backbones were trained "
        "on and what the captions say.",
        "Whoever uses it is bound by the licences of the data and of the backbones.",
    ]
    if facts.init:
        told.insert(
            1, f"Training continued from a given checkpoint of {facts.init}; what that was trained on is not known."
        )
    return "## Limits\n\n" + "\n".join(f"* {line}" for line in told)


def _unproven(scores: Scores) -> list[str]:
    """The scores that do not show that the picture was used: their interval reaches down to the control's."""
    names = [
        f"{evaluation}: {metric}"
        for evaluation, metric, score in _each(scores)
        if score["control"] and score["low"] <= score["control"]["high"]
    ]
    untold = [f"{evaluation}: {metric}" for evaluation, metric, score in _each(scores) if not score["control"]]
    shown = f"{', '.join(names)}: does not show that it uses the image, because the interval overlaps the control's."
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
