"""That both loops of the benchmark are the same training, and that a killed run is one; not how fast anything is."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.loops import STAGE2, STAGE4, Length, Ran, conventional, course, ours, process_seconds, with_kept_tokens
from benchmarks.model import CONVENTIONAL, DifferenceError
from benchmarks.processes import RunError, resumed, without_ray
from benchmarks.train import KEPT, OURS, TOLERANCE, differences, main
from benchmarks.work import WIDTHS

NANO = WIDTHS["nano"]
SHORT = Length(steps=3, batch=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.long
@pytest.mark.parametrize("work", [STAGE2, STAGE4], ids=["stage 2", "stage 4"])
def test_both_loops_have_the_same_losses_at_every_step(tmp_path, work):
    """Samples, their order, rates and the optimizer are the same, or the third loss would differ."""
    given = course(tmp_path, NANO, work, SHORT)
    runs = {
        CONVENTIONAL: conventional(given, process_seconds),
        OURS: ours(given.spec, process_seconds),
        KEPT: ours(with_kept_tokens(given.spec), process_seconds),
    }
    assert differences(runs).keys() == runs.keys()
    usual = runs[CONVENTIONAL]
    assert len(usual.losses) == len(set(usual.losses)) == 3
    assert {len(run.done_at) for run in runs.values()} == {3}
    assert all(run.step_seconds > 0 for run in runs.values())


def test_a_loop_with_other_losses_is_refused():
    usual = Ran(losses=(2.0, 1.0), done_at=(1.0, 2.0))
    other = replace(usual, losses=(2.0, 1.0 + 2 * TOLERANCE))
    with pytest.raises(DifferenceError, match="ours differs from the conventional loop in a loss by 2.0e-04"):
        differences({CONVENTIONAL: usual, OURS: other})
    with pytest.raises(DifferenceError, match="by inf"):
        differences({CONVENTIONAL: usual, OURS: replace(usual, losses=(2.0,))})


def test_the_first_step_warms_up_and_is_not_counted():
    """It took 9 seconds, the others 1, 1 and 4."""
    run = Ran(losses=(0.0,) * 4, done_at=(9.0, 10.0, 11.0, 15.0))
    assert (run.step_seconds, run.middle_step_seconds) == (2.0, 1.0)


@pytest.mark.long
def test_a_killed_run_goes_on_from_its_state_to_the_same_losses(tmp_path):
    spec = course(tmp_path, NANO, STAGE2, Length(steps=40, batch=4)).spec
    whole = ours(spec, process_seconds)
    assert resumed(spec, save_at=3, kill_at=4) > 0
    assert json.loads((spec.notes / "summary.json").read_text())["resumed_from_step"] >= 3
    lines = (spec.notes / "metrics.jsonl").read_text().splitlines()
    assert tuple(json.loads(line)["loss"] for line in lines) == whole.losses


def test_a_run_that_fails_ends_the_benchmark_with_its_words(tmp_path):
    spec = course(tmp_path, NANO, STAGE2, Length(steps=1, batch=2)).spec
    with pytest.raises(RunError, match="a run failed .2.*holds no checkpoint"):
        without_ray(replace(spec, init=tmp_path / "nowhere"))


def test_a_case_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--case", "nothing"])
    assert "invalid choice" in capsys.readouterr().err
