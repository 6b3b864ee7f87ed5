"""The report of a run: report.json, and report.html, one file that needs nothing else."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from tasks.quantities import spread
from tasks.reporting.page import environment, picture_url
from tasks.reporting.report import Report, ReportDetails, ScoreReport, Scores, StageReport
from tasks.reporting.report_charts import Curve, loss_chart, mark_of, score_chart, small_chart
from tinygptv_core.boxes import boxes_in
from tinygptv_core.drafts import write_whole
from tinygptv_core.shards import ShardSet
from tinygptv_core.training.metrics import Line, lines_of

SAMPLES_EACH = 4
"""Of each evaluation, the most right answers and the most wrong ones that are shown."""
RIGHT = 0.5
"""The score from which an answer is shown among the right ones."""
PARTS = ("data", "forward", "backward", "communication", "optimizer", "other")
"""Where the time of a step goes, in the order of a step."""
SINGLE_CURVES = {
    "rate": ("rate", None),
    "gradients' norm": ("gradient_norm", None),
    "samples a second": ("samples_per_second", ""),
    "tokens a second": ("tokens_per_second", ""),
    "operations a second": ("flops_per_second", ""),
    "share of the peak (MFU)": ("mfu", None),
    "memory": ("memory_bytes", "B"),
}
"""Title of a chart -> its name in a line of metrics.jsonl, and the unit of what is large."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one evaluation at every point of the run that has it, the final model's last."""

    evaluation: str
    metric: str
    points: Mapping[str, ScoreReport]

    @property
    def final(self) -> ScoreReport:
        """The final model's score."""
        return list(self.points.values())[-1]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one stage changed in one metric. `clear`: the 95 % intervals before and after do not meet."""

    difference: float
    clear: bool


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a stage went.

    Attributes:
        charts: of what was logged, as SVG.
        datasets: those of the chart of their losses, in its order; none where there is no such chart.
        step_seconds: part of a step -> its mean time; nothing where that is not known.
    """

    charts: Sequence[str]
    datasets: Sequence[str]
    step_seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a box lies on its picture, in percent of width and height."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One question of an evaluation as the page shows it.

    Attributes:
        line: its line of answers.jsonl.
        right: whether it is shown among the right answers.
        picture, control_picture: as data URLs; nothing where there is none.
        truth, boxes: the boxes in the references and in the answer.
        earlier: point of the run -> what was answered there.
    """

    line: Mapping[str, object]
    right: bool
    picture: str
    control_picture: str
    truth: Sequence[Box]
    boxes: Sequence[Box]
    earlier: Mapping[str, str]


class Page:
    """A run's report.json and report.html. What of it is shown elsewhere too is drawn once."""

    def __init__(self, report: Report, details: ReportDetails):
        self._report, self._details = report, details
        self._lines = {name: _measured(details.metrics.get(name)) for name in report["stages"]}

    def write(self, folder: Path) -> Path:
        """report.json and report.html in `folder`; the path of the first.

        Raises:
            ValueError: a data set's counts do not add up, or a number is not finite.
        """
        for name, counts in self._report["data"].items():
            dropped = sum(counts["dropped"].values())
            if counts["rows"] != counts["kept"] + dropped:
                raise ValueError(f"{name}: {counts['rows']} rows, but {counts['kept']} kept and {dropped} dropped")
        path = folder / "report.json"
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(self._report, indent=1, allow_nan=False) + "\n")
        write_whole(folder / "report.html", self.html())
        return path

    @cached_property
    def loss_charts(self) -> Mapping[str, str]:
        """Stage -> its loss, as SVG; of those whose held-out loss is known."""
        drawn = {name: _loss_chart(name, stage, self._lines[name]) for name, stage in self._report["stages"].items()}
        return {name: chart for name, chart in drawn.items() if chart}

    @cached_property
    def samples(self) -> Mapping[str, Sequence[Shown]]:
        """Of each evaluation, some questions that the final model answered right and some it did not."""
        return _samples_of(self._details)

    def html(self) -> str:
        """The page. Whatever comes from data (captions, URLs, answers) is escaped by the template."""
        report, metrics = self._report, metrics_of(self._report)
        gains = {stage: [gain(metric, stage) for metric in metrics] for stage in report["stages"]}
        return (
            environment()
            .get_template("report.html.jinja")
            .render(
                report=report,
                facts=self._details.facts,
                cards=self._details.cards,
                metrics=metrics,
                points=list(dict.fromkeys(point for metric in metrics for point in metric.points)),
                gains=gains,
                fell=any(one and one.clear and one.difference < 0 for stage in gains.values() for one in stage),
                score_charts=[score_chart(_title(metric), metric.points) for metric in metrics],
                loss_charts=list(self.loss_charts.values()),
                courses={name: course_of(lines) for name, lines in self._lines.items()},
                mark_of=mark_of,
                parts=PARTS,
                samples=self.samples,
            )
        )


def metrics_of(report: Report) -> list[Metric]:
    """Every metric of the run. The last stage's scores are the final model's."""
    by_point: dict[str, Scores] = {"fresh": report["fresh"]["scores"]} if report["fresh"] else {}
    by_point |= {report["init"]["stage"]: report["init"]["scores"]} if report["init"] else {}
    by_point |= {name: stage["scores"] for name, stage in report["stages"].items()}
    names = dict.fromkeys((e, m) for scores in by_point.values() for e, found in scores.items() for m in found)
    return [
        Metric(
            evaluation=e,
            metric=m,
            points={point: scores[e][m] for point, scores in by_point.items() if m in scores.get(e, {})},
        )
        for e, m in names
    ]


def gain(metric: Metric, stage: str) -> Gain | None:
    """What `stage` changed against the point before it; None where one of the two was not scored."""
    points = list(metric.points)
    if stage not in points or points.index(stage) == 0:
        return None
    before, after = metric.points[points[points.index(stage) - 1]], metric.points[stage]
    apart = after["low"] > before["high"] or after["high"] < before["low"]
    return Gain(difference=after["value"] - before["value"], clear=apart)


def _title(metric: Metric) -> str:
    return f"{metric.evaluation}: {metric.metric}"


def _loss_chart(name: str, stage: StageReport, lines: Sequence[Line]) -> str | None:
    before, after = stage["loss_first"], stage["loss_last"]
    if before is None or after is None:
        return None
    curve = Curve(
        steps=[line["step"] for line in lines],
        losses=[line.get("loss_mean", line["loss"]) for line in lines],
        before=before,
        after=after,
        last_step=stage["steps"],
        warned=[line["step"] for line in lines if line.get("warnings")],
    )
    return loss_chart(name, curve)


def course_of(lines: Sequence[Line]) -> Course:
    """How a stage went, from its metrics."""
    datasets = sorted({name for line in lines for name in line.get("losses", {})})
    losses = {name: _curve(lines, lambda line, name=name: line.get("losses", {}).get(name)) for name in datasets}
    charts = [small_chart("loss by data set", losses)] if len(datasets) > 1 else []
    for title, (name, unit) in SINGLE_CURVES.items():
        steps, values = _curve(lines, lambda line, name=name: line.get(name))
        charts += [small_chart(title, {title: (steps, values)}, unit)] if values else []
    return Course(charts=charts, datasets=datasets if len(datasets) > 1 else [], step_seconds=_split(lines))


def _curve(lines: Sequence[Line], value_of: Callable[[Line], float | None]) -> tuple[list[int], list[float]]:
    """(steps, values) of the lines that have a value."""
    found = [(line["step"], value) for line in lines if (value := value_of(line)) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _split(lines: Sequence[Line]) -> dict[str, float]:
    """Where the time of a step went, the mean over all steps; nothing where it was not told."""
    told = [line for line in lines if line.get("step_seconds")]
    steps = [line["step"] - before for line, before in zip(told, [0, *(line["step"] for line in told)], strict=False)]
    return {
        part: sum(line["step_seconds"].get(part, 0.0) * n for line, n in zip(told, steps, strict=True)) / sum(steps)
        for part in (PARTS if told else ())
    }


def _measured(path: Path | None) -> list[Line]:
    return lines_of(path) if path else []


def _lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _samples_of(details: ReportDetails) -> dict[str, list[Shown]]:
    if not details.answers:
        return {}
    *earlier_points, final = details.answers
    answers = {
        point: {(line["eval"], line["key"]): line["answer"] for line in _lines(details.answers[point])}
        for point in earlier_points
    }
    lines = _lines(details.answers[final])
    shown: dict[str, list[Shown]] = {}
    for name, folders in details.pictures.items():
        shards = ShardSet(folders)
        places = {sample.key: place for place, sample in enumerate(shards.texts())}
        asked = [line for line in lines if line["eval"] == name]
        right = [line for line in asked if line["score"] >= RIGHT]
        wrong = [line for line in asked if line["score"] < RIGHT]
        for line in [*spread(right, SAMPLES_EACH), *spread(wrong, SAMPLES_EACH)]:
            found = (name, line["key"])
            earlier = {point: given[found] for point, given in answers.items() if found in given}
            shown.setdefault(name, []).append(_shown(line, partial(_picture, shards, places), earlier))
    return shown


def _shown(line: dict, picture_of: Callable[[str], str], earlier: Mapping[str, str]) -> Shown:
    return Shown(
        line=line,
        right=line["score"] >= RIGHT,
        picture=picture_of(line["key"]),
        control_picture=picture_of(line["control_key"]) if line["control_key"] is not None else "",
        truth=[box for reference in line["references"] for box in drawn(reference)],
        boxes=drawn(line["answer"]),
        earlier=earlier,
    )


def drawn(text: str) -> list[Box]:
    """The boxes in a text, as far as they lie on the picture."""
    return [
        Box(left=x1, top=y1, width=x2 - x1, height=y2 - y1)
        for x1, y1, x2, y2 in boxes_in(text)
        if x1 <= x2 <= 100 and y1 <= y2 <= 100
    ]


def _picture(shards: ShardSet, places: Mapping[str, int], key: str) -> str:
    """The picture of the sample `key` as a data URL, made smaller where it would weigh on the page.

    Raises:
        ValueError: the data set has no such sample.
    """
    if key not in places:
        raise ValueError(f"an answer is about sample {key}, which is not among the {len(shards)} of its data set")
    held = shards[places[key]].picture
    return picture_url(held) if held else ""
