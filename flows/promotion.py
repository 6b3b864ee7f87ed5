"""The end of a run: its version against the champion, and its report, also where its curves are."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.choosing.choice import Prepared
from flows.reporting.summary import report_on
from flows.terminal import say
from tasks.build import BuildResult
from tasks.promote import Verdict, promote_by_rule, verdict_words
from tasks.registering.registry import registered
from tasks.reporting.report import Report
from tasks.storing.records import Records
from tasks.track import log_folder

if TYPE_CHECKING:
    from tasks.reporting.report_page import Page


def promoted(prepared: Prepared, model: BuildResult) -> Verdict:
    """The run's last step: compare its version with the champion, and promote it if the run's rule has it so.

    A version that was there already is compared only where the rule asks for it.

    Raises:
        RuntimeError: the version that was just registered is not there any more.
    """

    @task(name="promote", task_run_name="promote", cache_policy=NO_CACHE, persist_result=False)
    def judged() -> Verdict:
        environment, name = prepared.environment, prepared.preset.model_name
        version = registered(environment.tracking_uri, name, model.artifact.digest)
        if version is None:
            raise RuntimeError(f"{name} was registered at {environment.tracking_uri}, but is not there any more")
        is_new = model.action == "build"
        with environment.registry_alone():
            verdict = promote_by_rule(
                environment.promote,
                environment.tracking_uri,
                version,
                Records(environment.store),
                compares=is_new,
                run=environment.run,
            )
        words = verdict_words(verdict)
        get_run_logger().info(words)
        if is_new or verdict.event:
            say(words)
        return verdict

    return judged()


def reported(prepared: Prepared, built: Mapping[str, BuildResult]) -> tuple[Report, "Page", Path]:
    """`report_on`, as a task: with the data cards it takes seconds, which are not Prefect's."""

    @task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
    def written() -> tuple[Report, "Page", Path]:
        return report_on(prepared, built)

    return written()


def log_report(prepared: Prepared, report: Path) -> None:
    """The report, and what lies beside it, among the files of the run in MLflow, if it has one."""
    if prepared.environment.tracked is not None:
        log_folder(prepared.environment.tracking, prepared.environment.tracked, report.parent)
