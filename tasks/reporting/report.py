"""What a run did, for machines (report.json) and for people (report.html beside it)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from tinygptv_core.run import DataFolders


class IntervalReport(TypedDict):
    """A fraction in 0..1 with its 95 % interval."""

    value: float
    low: float
    high: float


class ScoreReport(IntervalReport):
    """A metric over `n` questions, and over the same questions with the pictures exchanged among them.

    The control is None where the pictures could not be exchanged: there was only one.
    """

    n: int
    control: IntervalReport | None


Scores = dict[str, dict[str, ScoreReport]]
"""evaluation -> metric -> score, as `scores.json` of a scores artifact."""


class StepReport(TypedDict):
    """One step: what was done with it and why, the seconds that took here, and the full digest of what it gave."""

    step: str
    action: Literal["build", "reuse"]
    why: str
    seconds: float
    artifact: str


class DataReport(TypedDict):
    """What became of a data set's rows: rows = kept + the sum of dropped."""

    rows: int
    kept: int
    dropped: dict[str, int]


class BandReport(TypedDict):
    """Where the loss after a stage is expected, who says so, and where this one's lies."""

    low: float
    high: float
    source: str
    verdict: Literal["below", "within", "above"]


class PredictionReport(TypedDict):
    """What the plan at the beginning of the run said a stage would take, and by what; None where it was not known."""

    seconds: float | None
    memory_bytes: float | None
    by: str


class StageReport(TypedDict):
    """One stage. Losses are means on one fixed held-out batch, in eval mode, before and after.

    `expected` is None where no band is known, `predicted` where the stage was not built. `warnings` are those of
    its metrics.jsonl; `notices` what a person should know besides: a state that was damaged, say. A number is None
    where it is not known: losses where no sample was held out, and all where what training told is not in the store.
    """

    steps: int
    loss_first: float | None
    loss_last: float | None
    seconds: float | None
    peak_memory_bytes: int | None
    samples_per_second: float | None
    notices: list[str]
    scores: Scores
    expected: BandReport | None
    predicted: PredictionReport | None
    warnings: list[str]


class FreshReport(TypedDict):
    """The model before stage 1, with fresh projections."""

    scores: Scores


class InitReport(TypedDict):
    """The checkpoint that a run began with (`--init`): the stage that it is of, and its scores."""

    stage: str
    scores: Scores


class ModelReport(TypedDict):
    """The registered version, and the digest of the checkpoint that it was made of."""

    name: str
    version: str
    aliases: list[str]
    checkpoint_digest: str


class Report(TypedDict):
    """report.json. `scores` is the final model's; `fresh`, `init` and `model` are None where a run has none.

    `world_size` is what the processes of the last stage told, None where the store has nothing of them.
    """

    run: str
    preset: str
    world_size: int | None
    steps: list[StepReport]
    data: dict[str, DataReport]
    fresh: FreshReport | None
    init: InitReport | None
    stages: dict[str, StageReport]
    scores: Scores
    model: ModelReport | None


@dataclass(frozen=True, kw_only=True)
class ReportDetails:
    """What the page shows beyond report.json.

    Attributes:
        metrics: stage -> its metrics.jsonl, of the notes of the run that trained it; it may be gone.
        answers: "fresh" and every evaluated stage, in order -> its answers.jsonl. The last is the final model's.
        pictures: evaluation -> the data set whose pictures it asks about.
        cards: data set -> where its page lies, seen from the report's.
        facts: what else is worth saying about machine and command, name -> words.
    """

    metrics: Mapping[str, Path]
    answers: Mapping[str, Path]
    pictures: Mapping[str, DataFolders]
    cards: Mapping[str, str]
    facts: Mapping[str, str]
