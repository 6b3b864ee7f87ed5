"""The report: what its file says, and what its page shows and never does."""

import io
import json
import re
import subprocess
import sys
import tarfile
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tasks.quantities import cut, duration, interval, percent, size, spread
from tasks.reporting.report import IntervalReport, Report, ReportDetails, ScoreReport
from tasks.reporting.report_charts import Curve, loss_chart, standing_alone, thinned
from tasks.reporting.report_page import PARTS, Box, Metric, Page, course_of, drawn, gain, metrics_of
from tinygptv_core.run import DataFolders
from tinygptv_core.shards import INDEX_COLUMNS
from tinygptv_core.training import clock

RED, BLUE = (200, 30, 30), (30, 30, 200)


def score(value: float, control: float, margin: float = 0.03) -> ScoreReport:
    other = IntervalReport(value=control, low=control - margin, high=control + margin)
    return ScoreReport(value=value, low=value - margin, high=value + margin, n=800, control=other)


def report_of(*accuracies: float) -> Report:
    """A run whose VQA accuracy goes through `accuracies`, the first before stage 1; the control stays at 0.27."""
    scores = [{"scenes_vqa": {"accuracy": score(accuracy, 0.27)}} for accuracy in accuracies]
    return {
        "run": "bold-finch",
        "preset": "nano",
        "world_size": 2,
        "steps": [
            {"step": "list/fetch", "action": "reuse", "why": "built before", "seconds": 0.01, "artifact": "ab" * 32},
            {"step": "stage1/train", "action": "build", "why": "not built yet", "seconds": 75.0, "artifact": "c" * 64},
        ],
        "data": {"list": {"rows": 10, "kept": 7, "dropped": {"http 404": 2, "duplicate": 1}}},
        "fresh": {"scores": scores[0]},
        "init": None,
        "stages": {
            f"stage{i}": {
                "steps": 150,
                "loss_first": 3.5,
                "loss_last": 1.25,
                "seconds": 75.0,
                "peak_memory_bytes": 812_000_000,
                "samples_per_second": 61.5,
                "notices": ["the state after step 50 was damaged"] if i == 1 else [],
                "scores": found,
                "expected": {"low": 1.0, "high": 1.5, "source": "measured", "verdict": "within"},
                "predicted": {"seconds": 90.0, "memory_bytes": 8e8, "by": "last run"},
                "warnings": [],
            }
            for i, found in enumerate(scores[1:], start=1)
        },
        "scores": scores[-1],
        "model": {"name": "tinygptv", "version": "3", "aliases": ["latest"], "checkpoint_digest": "d" * 64},
    }


UNKNOWN = dict.fromkeys(("loss_first", "loss_last", "seconds", "peak_memory_bytes", "samples_per_second"))
"""Of a stage whose checkpoint was brought here without what its training told."""


def jpeg(color: tuple[int, int, int], side: int = 8) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (side, side), color).save(held, "JPEG")
    return held.getvalue()


def folders_of(base: Path, pictures: list[bytes], *, order: Sequence[int] | None = None) -> DataFolders:
    """A data set of one tar whose sample with the key `i` in nine digits has the picture `pictures[i]`.

    The samples stand in `order`, or in that of their keys.
    """
    shards, index = base / "shards", base / "index"
    shards.mkdir(parents=True)
    index.mkdir()
    with tarfile.open(shards / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i in order or range(len(pictures)):
            text = {"key": f"{i:09}", "turns": [["user", "?"]], "split": None, "group": None, "url": None}
            for name, held in ((f"{i:09}.jpg", pictures[i]), (f"{i:09}.json", json.dumps(text).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
    with tarfile.open(shards / "00000.tar") as tar:
        places = [(member.offset_data, member.size) for member in tar]
    columns = [(name, "i4" if name == "shard" else "i8") for name in INDEX_COLUMNS]
    samples = [(i, 0, *places[2 * i], *places[2 * i + 1]) for i in range(len(pictures))]
    np.save(index / "samples.npy", np.array(samples, dtype=columns))
    (index / "shards.json").write_text(json.dumps(["00000.tar"]))
    return DataFolders(shards=shards, index=index)


def line(key: int, answer: str, truth: str, *, question: str = "what colour is it?") -> dict:
    return {
        "eval": "scenes_vqa",
        "key": f"{key:09}",
        "question": question,
        "answer": answer,
        "references": [truth],
        "score": float(answer == truth),
        "control_answer": "green",
        "control_score": 0.0,
        "control_key": "000000000",
    }


def lines_at(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return path


def nothing_more() -> ReportDetails:
    return ReportDetails(metrics={}, answers={}, pictures={}, cards={}, facts={})


def details_at(base: Path, *, answer: str = "red", facts: dict[str, str] | None = None) -> ReportDetails:
    """Two questions about a red and a blue picture, asked before stage 1 and after it."""
    return ReportDetails(
        metrics={"stage1": lines_at(base / "metrics.jsonl", [{"step": 10, "loss": 2.5}, {"step": 150, "loss": 1.5}])},
        answers={
            "fresh": lines_at(base / "fresh.jsonl", [line(0, "seven", "red"), line(1, "seven", "blue")]),
            "stage1": lines_at(base / "stage1.jsonl", [line(0, answer, "red"), line(1, "purple", "blue")]),
        },
        pictures={"scenes_vqa": folders_of(base / "data", [jpeg(RED), jpeg(BLUE)])},
        cards={},
        facts=facts or {},
    )


def test_report_json_is_the_report(tmp_path):
    path = Page(report_of(0.25, 0.8), nothing_more()).write(tmp_path / "new")
    assert path == tmp_path / "new" / "report.json"
    assert json.loads(path.read_text()) == report_of(0.25, 0.8)
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json"]


def test_counts_that_do_not_add_up_are_refused_before_anything_is_written(tmp_path):
    report = report_of(0.25, 0.8)
    report["data"]["list"]["kept"] = 8
    with pytest.raises(ValueError, match="list: 10 rows, but 8 kept and 3 dropped"):
        Page(report, nothing_more()).write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_a_number_is_refused(tmp_path):
    report = report_of(0.25, 0.8)
    report["stages"]["stage1"]["loss_last"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        Page(report, nothing_more()).write(tmp_path)


def test_a_stage_of_which_only_the_checkpoint_is_here_has_a_row_and_no_chart(tmp_path):
    report = report_of(0.25, 0.5, 0.8)
    report["stages"]["stage1"].update({"expected": None, "predicted": None, **UNKNOWN})
    page = Page(report, details_at(tmp_path))
    assert page.html().count("not known") == len(UNKNOWN)
    assert list(page.loss_charts) == ["stage2"]
    assert "<th>peak memory while training</th><td>812.0 MB</td>" in page.html()


def test_the_page_says_how_far_the_model_is_above_its_control(tmp_path):
    page = Page(report_of(0.25, 0.8), details_at(tmp_path)).html()
    assert "tinygptv version 3" in page
    assert re.search(r"<span>53\.0 points above its control of\s+27\.0 %", page)
    assert "not distinguishable" not in page


def test_a_score_that_is_within_its_controls_interval_is_no_success(tmp_path):
    assert "not distinguishable from its control of 27.0 %" in Page(report_of(0.25, 0.29), details_at(tmp_path)).html()


def test_a_score_without_a_control_is_shown_without_one(tmp_path):
    report, details = report_of(0.25, 0.8), details_at(tmp_path)
    report["scores"]["scenes_vqa"]["accuracy"]["control"] = None
    alone = {**line(0, "red", "red"), "control_answer": None, "control_score": None, "control_key": None}
    lines_at(tmp_path / "stage1.jsonl", [alone])
    page = Page(report, details).html()
    assert "without a control" in page
    assert "<dt>control</dt>" not in page


@pytest.mark.parametrize(("last", "is_said"), [(0.1, True), (0.65, False)], ids=["clear", "chance"])
def test_where_a_score_fell_clearly_it_is_said_how_that_can_be(tmp_path, last, is_said):
    page = Page(report_of(0.25, 0.67, last), nothing_more()).html()
    assert ("the model then answers in the form of that stage's texts" in " ".join(page.split())) == is_said


def test_a_gain_is_clear_when_the_intervals_do_not_meet():
    (metric,) = metrics_of(report_of(0.25, 0.67, 0.69))
    first, second = gain(metric, "stage1"), gain(metric, "stage2")
    assert first is not None and second is not None
    assert (round(first.difference, 2), first.clear) == (0.42, True)
    assert (round(second.difference, 2), second.clear) == (0.02, False)
    assert gain(metric, "stage3") is None


def test_without_a_score_before_it_a_stage_has_brought_nothing_that_can_be_said():
    metric = Metric(evaluation="scenes_vqa", metric="accuracy", points={"stage1": score(0.8, 0.3)})
    assert gain(metric, "stage1") is None


def test_the_page_shows_right_and_wrong_answers_with_picture_truth_and_control(tmp_path):
    page = Page(report_of(0.25, 0.8), details_at(tmp_path)).html()
    assert '<b class="good">red</b>' in page and '<b class="bad">purple</b>' in page
    assert page.count("seven") == 2 and page.count("green</dd>") == 2
    assert page.count('alt="the picture asked about"') == page.count('alt="the control\'s picture"') == 2


def metrics_line(step: int, **more: object) -> dict:
    return {
        "step": step,
        "loss": 2.0,
        "losses": {"shapes": 2.0, "words": 1.0},
        "rate": 1e-3,
        "gradient_norm": None,
        "samples_per_second": 60.0,
        "step_seconds": {"data": 0.1, "forward": 0.2},
        **more,
    }


def test_the_page_says_whether_a_loss_is_usual_and_what_was_predicted(tmp_path):
    report, details = report_of(0.25, 0.8), details_at(tmp_path)
    page = Page(report, details).html()
    assert "<small>within what is expected,</small><small>1.00 to 1.50</small>" in page
    assert "<small>predicted 1 min 30 s</small><small>by the last run</small>" in page
    assert "<small>predicted 800.0 MB</small>" in page and "The expected loss: measured." in page
    report["stages"]["stage1"].update(
        {
            "expected": {"low": 1.0, "high": 1.2, "source": "measured", "verdict": "above"},
            "predicted": {"seconds": None, "memory_bytes": 5e8, "by": "arithmetic"},
            "warnings": ["the loss leapt"],
        }
    )
    page = Page(report, details).html()
    assert '<small class="bad">above what is expected,</small>' in page
    assert "<small>no earlier run</small><small>to predict it from</small>" in page
    assert "<small>at least 500.0 MB for</small><small>weights and optimizer</small>" in page
    assert "<li>stage1: the loss leapt</li>" in page


def test_a_stage_without_band_and_prediction_shows_neither(tmp_path):
    report = report_of(0.25, 0.8)
    report["stages"]["stage1"].update({"expected": None, "predicted": None})
    page = Page(report, details_at(tmp_path)).html()
    assert "expected" not in page and "predicted" not in page


def test_a_course_has_a_chart_of_each_thing_that_was_logged():
    course = course_of([metrics_line(5), metrics_line(10, losses={"words": 0.5})])
    assert [re.findall('aria-label="([^"]*)', chart) for chart in course.charts] == [
        ["loss by data set, over the steps"], ["rate, over the steps"], ["samples a second, over the steps"]
    ]  # fmt: skip
    assert list(course.datasets) == ["shapes", "words"]
    alone = course_of([metrics_line(5, losses={"words": 0.5}, gradient_norm=1.0)])
    assert len(alone.charts) == 3 and not alone.datasets  # the loss of one data set is in the large chart


def test_all_that_a_line_measures_has_a_curve_and_the_share_of_a_peak_where_that_is_known():
    told = {"tokens_per_second": 900.0, "flops_per_second": 2e12, "memory_bytes": 8e9}
    titles = {
        chart.split('aria-label="', 1)[1].split(",", 1)[0]
        for chart in course_of([metrics_line(5, mfu=0.4, **told)]).charts
    }
    asked = {"tokens a second", "operations a second", "memory"}
    assert titles >= asked | {"share of the peak (MFU)"}
    assert len(course_of([metrics_line(5, mfu=None, **told)]).charts) == len(titles) - 1


def test_the_time_of_a_step_is_the_mean_over_all_steps():
    """Five steps of 0.1 s and fifteen of 0.3 s of waiting: (0.5 + 4.5) / 20."""
    lines = [metrics_line(5), metrics_line(20, step_seconds={"data": 0.3, "forward": 0.2})]
    split = course_of(lines).step_seconds
    assert split["data"] == pytest.approx(0.25) and split["forward"] == pytest.approx(0.2) and split["other"] == 0


def test_metrics_of_an_earlier_version_have_no_course():
    course = course_of([{"step": 5, "loss": 2.0}])
    assert (course.charts, course.datasets, course.step_seconds) == ([], [], {})


def test_a_long_curve_is_thinned_to_means():
    steps, values = thinned(range(900), [1.0, 3.0, 5.0] * 300)
    assert len(steps) == len(values) == 300
    assert (steps[0], steps[-1], set(values)) == (1, 898, {3.0})
    assert thinned([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])


def test_what_came_from_outside_is_text_on_the_page_and_never_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    report = report_of(0.25, 0.8)
    report["data"][evil] = {"rows": 1, "kept": 0, "dropped": {evil: 1}}
    report["scores"] = report["stages"]["stage1"]["scores"] = {f"$^{evil}": {evil: score(0.8, 0.2)}}
    page = Page(report, details_at(tmp_path, answer=evil, facts={"command": evil})).html()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 6


def test_the_page_asks_no_other_machine_for_anything(tmp_path):
    page = Page(report_of(0.25, 0.8), details_at(tmp_path)).html()
    outside = re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*|url\((?!#)[^)]*|@import""", page)
    assert outside == []
    assert "default-src 'none'" in page


def test_a_data_set_that_has_a_page_of_its_own_leads_to_it(tmp_path):
    details = replace(details_at(tmp_path), cards={"list": "data/list.html"})
    assert '<a href="data/list.html">list</a>' in Page(report_of(0.25, 0.8), details).html()
    assert "<a href" not in Page(report_of(0.25, 0.8), replace(details, cards={})).html()


def test_the_same_report_gives_the_same_page(tmp_path):
    details = details_at(tmp_path)
    assert Page(report_of(0.25, 0.8), details).html() == Page(report_of(0.25, 0.8), details).html()


def test_a_large_picture_is_made_smaller(tmp_path):
    noise = np.random.default_rng(1).integers(0, 255, (600, 900, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(noise).save(held, "PNG")
    details = ReportDetails(
        metrics={},
        answers={"stage1": lines_at(tmp_path / "answers.jsonl", [line(0, "red", "red")])},
        pictures={"scenes_vqa": folders_of(tmp_path / "data", [held.getvalue()])},
        cards={},
        facts={},
    )
    assert len(held.getvalue()) > 1_000_000
    assert len(Page(report_of(0.25, 0.8), details).html()) < 250_000


def test_the_pictures_are_found_in_whatever_order_the_samples_stand(tmp_path):
    """Keys ascend within a segment of a fetched list, and begin anew with the next."""
    pictures = [jpeg(RED), jpeg(BLUE), jpeg((30, 200, 30)), jpeg((0, 0, 0))]
    details = details_at(tmp_path)
    mixed = replace(details, pictures={"scenes_vqa": folders_of(tmp_path / "mixed", pictures, order=[2, 3, 0, 1])})
    assert Page(report_of(0.25, 0.8), mixed).html() == Page(report_of(0.25, 0.8), details).html()


def test_an_answer_about_a_sample_that_is_not_there_is_refused(tmp_path):
    details = details_at(tmp_path)
    lines_at(tmp_path / "stage1.jsonl", [line(5, "red", "red")])
    with pytest.raises(ValueError, match="sample 000000005, which is not among the 2 of its data set"):
        Page(report_of(0.25, 0.8), details).html()


def test_the_page_says_what_one_should_know_of_how_a_stage_was_trained(tmp_path):
    assert "stage1: the state after step 50 was damaged" in Page(report_of(0.27, 0.62), details_at(tmp_path)).html()


def test_a_run_that_got_to_no_stage_has_a_page_too(tmp_path):
    report = report_of(0.25, 0.8)
    report.update({"fresh": None, "stages": {}, "scores": {}, "model": None, "steps": []})
    page = Page(report, nothing_more()).html()
    assert "No model was registered" in page and "0 built, 0 reused" in page


def test_the_boxes_that_a_score_sees_are_drawn_where_they_lie_on_the_picture():
    assert drawn("{<10><20><40><100>} and {<9><9><3><3>} {<0><0><101><5>} {<0001><0><5><5>}") == [
        Box(left=10, top=20, width=30, height=80)
    ]


@pytest.mark.parametrize(("seconds", "words"), [(0.31, "0.3 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")])
def test_a_duration_is_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(12, "12 bytes"), (2_500_000, "2.5 MB"), (1.5e9, "1.5 GB")])
def test_a_size_is_in_words(number, words):
    assert size(number) == words


def test_the_parts_of_a_steps_time_are_those_of_the_clock_and_what_lies_beside_them():
    assert sorted(PARTS) == sorted([*clock.PARTS, "data", "other"])


def test_a_share_and_an_interval_are_in_percent():
    assert percent(0.125) == "12.5%"
    assert interval({"low": 0.1, "high": 0.15}) == "10.0% to 15.0%"


def test_what_is_long_is_cut_and_of_many_some_are_taken_evenly():
    assert [cut(text, 6, " ...") for text in ("sixsix", "seven77")] == ["sixsix", "se ..."]
    assert [list(spread(range(count), 3)) for count in (0, 3, 4, 9)] == [[], [0, 1, 2], [0, 2], [0, 3, 6]]


def test_the_page_is_made_without_torch() -> None:
    """A run that only reuses imports it for nothing: seconds."""
    code = "import sys, tasks.reporting.report_page; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "False\n"


def test_a_chart_that_stands_alone_is_a_whole_svg_without_colours_of_the_page():
    curve = Curve(steps=[1, 2], losses=[3.0, 1.0], before=3.0, after=1.0, last_step=2, warned=[])
    kind, _, data = standing_alone(loss_chart("stage1", curve)).partition(",")
    drawn = b64decode(data).decode()
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in drawn
