"""What a run shows in Prefect's interface beside its tasks: the plan, how far it is, and what it reached."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from flows.choosing.choice import Prepared
from flows.plan import Planned
from flows.reporting.foreseen import what_it_takes
from tasks.promote import Verdict, verdict_words
from tasks.quantities import interval, known, loss, percent
from tasks.reporting.markdown import table
from tasks.reporting.report import Report, ScoreReport
from tasks.request import SHORT
from tasks.track import repeating, run_address

if TYPE_CHECKING:
    from tasks.reporting.report_page import Page

LOGGER = logging.getLogger(__name__)

AWAY = (httpx.HTTPError, PrefectException, OSError)
"""What asking a server of Prefect raises that does not answer."""
PROGRESS_SECONDS = 3.0
ANSWERS_EACH = 2
"""Of each evaluation, so many of the right answers and so many of the wrong ones."""
MARKUP = frozenset("<>|`*_[]!\\&#")


def show_plan(planned: Sequence[Planned]) -> None:
    """Before anything is built: what will be, why, and what it takes."""
    builds = sum(item.action == "build" for item in planned)
    rows = [
        (item.step, item.action, _said(item.why.partition("\n")[0]), _said("; ".join(what_it_takes(item))))
        for item in planned
    ]
    text = f"{builds} to build, {len(planned) - builds} to reuse\n\n{table(('step', 'action', 'why', 'takes'), rows)}"
    with _if_it_can("the plan"):
        create_markdown_artifact(text, key="plan", description="What is built and reused, and why")


class Progress:
    """How far the step at work has come, as one artifact that is brought up to date now and then."""

    def __init__(self) -> None:
        self._told: tuple[float, str] | None = None
        self._artifact: UUID | None = None
        self._lock, self._is_away = threading.Lock(), False

    def tell(self, name: str, done: int, total: int, text: str) -> None:
        """Take what a step says of itself."""
        words = f"**{name}**: {done:,} of {total:,}{f', {_said(text)}' if text else ''}"
        with self._lock:
            self._told = (100 * done / total if total else 0.0, words)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it for as long as the block lasts."""
        context = copy_context()  # of the run, which the thread that shows it is not part of
        with repeating(lambda: context.run(self._show), PROGRESS_SECONDS):
            yield

    def _show(self) -> None:
        with self._lock:
            told, self._told = self._told, None
        if told is not None:
            self._write_if_it_can(*told)

    def _write_if_it_can(self, percent: float, words: str) -> None:
        try:
            self._write(percent, words)
        except AWAY as error:
            if not self._is_away:
                LOGGER.warning("Prefect does not take the progress: %s", error)
            self._is_away = True

    def _write(self, percent: float, words: str) -> None:
        if self._artifact is None:
            self._artifact = cast(UUID, create_progress_artifact(percent, key="progress", description=words))
        else:
            update_progress_artifact(self._artifact, percent, words)


def show_result(prepared: Prepared, report: Report, page: "Page", path: Path, verdict: Verdict | None) -> None:
    """At the end: scores, curves, some answers, and where the rest is."""
    parts = [
        _links(prepared, report, path),
        f"```\n{verdict_words(verdict)}\n```" if verdict else "",
        _scores(report),
        _stages(report),
        _curves(page),
        _answers(page),
    ]
    with _if_it_can("the result"):
        text = "\n\n".join(part for part in parts if part)
        create_markdown_artifact(text, key="result", description="What it reached")


@contextmanager
def _if_it_can(what: str) -> Iterator[None]:
    """Whatever becomes of what is shown, the run goes on."""
    try:
        yield
    except AWAY as error:
        LOGGER.warning("Prefect does not take %s: %s", what, error)


def _curves(page: "Page") -> str:
    from tasks.reporting.report_charts import standing_alone

    return "\n".join(f"![the loss of {name}]({standing_alone(drawn)})" for name, drawn in page.loss_charts.items())


def _answers(page: "Page") -> str:
    """Some of each evaluation that asks about pictures."""
    some = [one for found in page.samples.values() for one in (*found[:ANSWERS_EACH], *found[-ANSWERS_EACH:])]
    told = ("question", "answer", "references")
    rows = [(f"![]({one.picture})", *(_said(one.line[name]) for name in told)) for one in some]
    return table(("image", "question", "answer", "wanted"), rows) if rows else ""


def _said(words: object) -> str:
    """Words that come from data, which are no markup."""
    text = ", ".join(map(str, words)) if isinstance(words, list) else str(words)
    return "".join(f"\\{letter}" if letter in MARKUP else letter for letter in " ".join(text.splitlines()))


def _links(prepared: Prepared, report: Report, path: Path) -> str:
    environment, model = prepared.environment, report["model"]
    page = path.with_suffix(".html")
    at_run = run_address(environment.tracking, environment.tracked) if environment.tracked else None
    linked = f"[{page.name}]({at_run}/artifactPath/{page.name}), in " if at_run else ""
    lines = [f"* report: {linked}`{page}`"]
    if urlsplit(environment.tracking_uri).scheme in ("http", "https"):
        at = environment.tracking_uri.rstrip("/")
        if model:
            words = f"{model['name']} version {model['version']}"
            lines.append(f"* model: [{words}]({at}/#/models/{model['name']}/versions/{model['version']})")
        lines.append(f"* curves: [{environment.experiment}]({at_run or f'{at}/#/experiments'})")
    elif model:
        lines.append(f"* model: `models:/{model['name']}/{model['version']}` in `{environment.tracking_uri}`")
    if model:
        lines.append(f"* aliases: {', '.join(model['aliases'])}; checkpoint `{model['checkpoint_digest'][:SHORT]}`")
    return "\n".join(lines)


def _scores(report: Report) -> str:
    rows = [
        (f"{evaluation}: {metric}", percent(score["value"]), interval(score), _control(score))
        for evaluation, metrics in report["scores"].items()
        for metric, score in metrics.items()
    ]
    return table(("score", "value", "95 %", "control"), rows) if rows else ""


def _control(score: ScoreReport) -> str:
    return percent(score["control"]["value"]) if score["control"] else ""


def _stages(report: Report) -> str:
    rows = [
        (
            name,
            f"{of['steps']:,}",
            known(of["loss_first"], loss),
            known(of["loss_last"], loss),
            known(of["seconds"], "{:.0f}".format),
        )
        for name, of in report["stages"].items()
    ]
    return table(("stage", "steps", "loss before", "after", "seconds"), rows) if rows else ""
