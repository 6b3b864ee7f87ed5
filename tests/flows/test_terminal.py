"""What a person reads on the terminal."""

import pytest

from flows.terminal import Terminal
from tests.tasks.reporting.test_report import UNKNOWN, report_of


def summary_of(report, capsys, tmp_path):
    Terminal().summary(report, tmp_path / "report.json")
    return capsys.readouterr().err.splitlines()


def test_a_trained_stage_is_a_line(capsys, tmp_path):
    lines = summary_of(report_of(0.25, 0.8), capsys, tmp_path)
    assert (
        "stage1: held-out loss 3.500 to 1.250, within what is expected (1.00 to 1.50); 1:15, 62 samples/s "
        "(predicted 1:30)" in lines
    )


def test_what_is_not_known_of_a_stage_is_left_out_and_warnings_are_counted(capsys, tmp_path):
    report = report_of(0.25, 0.8)
    report["stages"]["stage1"].update({"expected": None, "predicted": None, "warnings": ["the loss leapt"]})
    lines = summary_of(report, capsys, tmp_path)
    assert "stage1: held-out loss 3.500 to 1.250; 1:15, 62 samples/s; warnings: 1, see the report" in lines


def test_a_stage_of_which_only_the_checkpoint_is_here_or_without_held_out_samples_is_told_of(capsys, tmp_path):
    report = report_of(0.25, 0.8)
    report["stages"]["stage1"].update({"expected": None, "predicted": None, "notices": [], **UNKNOWN})
    assert not any(line.startswith("stage1: held-out") for line in summary_of(report, capsys, tmp_path))
    report["stages"]["stage1"].update({"seconds": 75.0, "samples_per_second": 61.5})
    lines = summary_of(report, capsys, tmp_path)
    assert "stage1: held-out loss not known to not known; 1:15, 62 samples/s" in lines


def test_where_the_last_stage_was_not_evaluated_the_scores_of_others_are_lines(capsys, tmp_path):
    report = report_of(0.25, 0.8)
    told = [line for line in summary_of(report, capsys, tmp_path) if "accuracy" in line]
    report["stages"]["stage1"]["scores"], report["scores"] = report["scores"], {}
    assert [line for line in summary_of(report, capsys, tmp_path) if line.startswith("stage1: scenes")] == [
        f"stage1: {line}" for line in told
    ]
    assert told


@pytest.mark.parametrize("is_terminal", [True, False], ids=["a bar", "lines"])
def test_what_is_left_of_a_run_that_goes_on_is_reckoned_from_where_it_goes_on(capsys, monkeypatch, is_terminal):
    """300 of 1,500 steps are done already; 10 more take 10 seconds: 1,190 are left, which take 19:50."""
    now = [1000.0]
    for clock in ("flows.terminal.time.monotonic", "tqdm.std.time"):
        monkeypatch.setattr(clock, lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    terminal = Terminal()
    tell = terminal.progress("stage1/train")
    for done in (300, 310):
        tell(done, 1500, "")
        now[0] += 10.0
    assert "19:50" in (str(terminal.bar) if terminal.bar else capsys.readouterr().err)
