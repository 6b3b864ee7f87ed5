"""A run that is killed wherever it stands, and continued with the same command, ends as one that nobody disturbed.

Always: two kills of `nano` up to stage 2, on a home of its own, beside the whole run that other tests share. With
`--long` seven of a `nano` of a few steps, whose undisturbed run ends with the training of stage 4; with `--chaos 30`
(`make chaos`) thirty at random places of the whole.
"""

import json
import os
import random
import sqlite3
import sys
import tempfile
from contextlib import closing
from itertools import cycle
from pathlib import Path

import psutil
import pytest
from conftest import new_home
from killing import END, HEAD, START, Calm, Kill, calm_of, killed_until_done, title

from tinygptv_core.presets import NANO

STAGES = ("stage1", "stage2", "stage3", "stage4")
OPTIONS = {"packed": "true", "loader_workers": "1", "save_every_steps": "5", "log_every_steps": "1"}
SMALL = {
    "scenes.pretraining_pictures": 160,
    "scenes.instruction_pictures": 60,
    "scenes.held_out_pictures": 10,
    **{f"{stage}.schedule.steps": 24 for stage in STAGES},
    **{f"{stage}.schedule.warmup_steps": 4 for stage in STAGES},
    **{f"{stage}.evals": '["scenes_vqa"]' for stage in STAGES},
}
BRIEF = (
    Kill(who="driver", step="scenes_web/fetch", share=0.2),
    Kill(who="everything", step="stage2/train", share=0.6),
)
SAVED_EVERY = NANO.options.save_every_steps
# A command takes long to start again. The death of a training process ends none: Ray starts them anew, three times.
AIMED = (
    Kill(who="driver", step="scenes_web/fetch", share=0.0),
    Kill(who="group", step="evaluate", share=0.0),
    Kill(who="worker", step="stage1/train", share=0.3),
    Kill(who="everything", step="stage2/train", share=0.3),
    Kill(who="worker", step="stage3/train", share=0.3),
    Kill(who="worker", step="stage4/train", share=0.3),
    Kill(who="everything", step="register", share=0.0),
)
WHOLE = ("everything", "driver", "group")
LEFT_SECONDS = 90
"""Where the command alone is killed, two of Ray's agents try for a minute to tell its dead server of it."""


def arguments(*, small):
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")] if small else []
    return [*settings, *(word for name, value in OPTIONS.items() for word in ("--option", f"{name}={value}"))]


def drawn(number: int, calm: Calm, chance: random.Random) -> list[Kill]:
    """So many kills in the order of the DAG: some wherever they must be, the others by how long the steps take."""
    must = ["scenes_web/fetch", "scenes_alt/fetch", *(f"{stage}/train" for stage in STAGES), "register"]
    must += [f"{stage}/evaluate" for stage in chance.sample(STAGES, 2)]
    places = [START, *must, *(f"{stage}/train" for stage in STAGES), END][:number]
    names, weights = list(calm.seconds), list(calm.seconds.values())
    places += chance.choices(names, weights, k=number - len(places))
    places.sort(key=lambda step: names.index(step))
    anywhere, training = cycle(chance.sample(WHOLE, k=3)), cycle(chance.sample((*WHOLE, "worker"), k=4))
    kills = [
        Kill(
            who=next(training if step in calm.steps else anywhere),
            step=step,
            # What must be met, and has no steps to count, is met where it begins: how long it takes is another time's.
            share=0.0 if step in must and step not in calm.steps else chance.uniform(0.05, 0.95),
        )
        for step in places
    ]
    return sorted(kills, key=lambda kill: (names.index(kill.step), kill.share))


def test_a_run_that_is_killed_in_a_fetch_and_in_a_stage_goes_on(used_home, home, report, tmp_path, capsys):
    command, told = ["train", "stage2", "--option", "loader_workers=1"], KillTable(tmp_path / "kills.txt", capsys)
    told(HEAD)
    calm = calm_of(home.path / "store", report)
    struck, processes, path = killed_until_done(used_home, calm, command, BRIEF, told)
    again = json.loads(path.read_text())
    made, wanted = ({step["step"]: step["artifact"] for step in one["steps"]} for one in (again, report))
    assert "stage2/train" in made and made.items() <= wanted.items()
    assert [one.kill for one in struck] == list(BRIEF)
    assert all(one.kill.step in one.building for one in struck)
    resumed, reached = resumed_from(used_home), struck[-1].reached  # whose last state may not have been whole yet
    assert resumed["stage1/train"] == 0
    assert resumed["stage2/train"] in range(SAVED_EVERY, report["stages"]["stage2"]["steps"], SAVED_EVERY)
    assert resumed["stage2/train"] > reached - 2 * SAVED_EVERY
    assert_nothing_is_left(used_home, processes)
    curve, undisturbed = curves(used_home), curves(home)
    assert len(curve) == 2 and curve.items() <= undisturbed.items()


@pytest.mark.long
def test_a_run_that_is_killed_anywhere_ends_as_an_undisturbed_one(tmp_path, request, capsys):
    number, seed = request.config.getoption("--chaos"), request.config.getoption("--chaos-seed")
    options = arguments(small=not number)
    undisturbed = new_home(tmp_path / "calm")
    undisturbed.path.parent.mkdir()
    report = undisturbed.report(*options) if number else undisturbed.report(*options, command=("train", "stage4"))
    calm = calm_of(undisturbed.path / "store", report)
    kills = drawn(number, calm, random.Random(seed)) if number else AIMED
    home = new_home(tmp_path / "killed")
    told = KillTable(Path(f"chaos-{seed}.txt") if number else tmp_path / "kills.txt", capsys)
    told(f"seed {seed}\n{HEAD}")
    struck, processes, path = killed_until_done(home, calm, ["run", *options], kills, told)
    again = json.loads(path.read_text())
    assert_the_same_was_made(again, report)
    assert_all_was_met(struck)
    assert_it_went_on(home)
    assert_nothing_is_left(home, processes)
    assert_told_once(home, undisturbed)


def assert_the_same_was_made(again, report):
    """Every artifact of every step that the undisturbed run came to, the four checkpoints among them."""
    made, wanted = ({step["step"]: step["artifact"] for step in one["steps"]} for one in (again, report))
    assert {f"{stage}/train" for stage in STAGES} <= wanted.keys()
    assert {step: made[step] for step in wanted} == wanted


def assert_it_went_on(home):
    """Not every stage that was killed began anew."""
    resumed = resumed_from(home)
    assert len(resumed) == 4 and any(resumed.values())


class KillTable:
    """The table of the kills, printed and written as they come."""

    def __init__(self, path, capsys):
        self._path, self._capsys = path, capsys
        path.unlink(missing_ok=True)

    def __call__(self, line):
        with self._path.open("a") as file:
            file.write(f"{line}\n")
        with self._capsys.disabled():
            sys.stdout.write(f"\n{line}")
            sys.stdout.flush()


def assert_all_was_met(struck):
    """A fetch, the training of every stage, an evaluation and the registration were under way when they were killed."""
    met = {name for one in struck for name in one.building}
    assert {f"{stage}/train" for stage in STAGES} <= met and "register" in met
    assert any(name.endswith("/fetch") for name in met) and any(name.endswith("evaluate") for name in met)
    assert {"everything", "group", "driver", "worker"} <= {one.kill.who for one in struck}


def assert_nothing_is_left(home, processes):
    """No process, no work, no lease, no half-written file, no temporary folder."""
    _, alive = psutil.wait_procs(processes, timeout=LEFT_SECONDS)
    assert [title(one) for one in alive] == []
    store = home.path / "store"
    left = [path for folder in ("work/*", "leases") for path in store.glob(f"{folder}/*")]
    left += [*home.path.rglob("*.partial"), *(home.path / "ray").glob("workers-*"), *home.path.glob(".probe-*")]
    assert left == []
    temporary = Path(tempfile.gettempdir())
    mine = {temporary / f"tinygptv-ray-{os.getuid()}-{one.pid}" for one in processes}
    assert mine & set(temporary.iterdir()) == set()


def assert_told_once(home, undisturbed):
    """One version in the registry; every curve whole, and as the undisturbed one; no run that seems to go on."""
    assert rows(home, "mlflow/mlflow.db", "SELECT version FROM model_versions") == [(1,)]
    assert rows(home, "mlflow/mlflow.db", "SELECT name FROM runs WHERE status = 'RUNNING'") == []
    assert (
        rows(home, "prefect/prefect.db", "SELECT name FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING')") == []
    )
    assert curves(home) == curves(undisturbed)


def rows(home, database, query):
    with closing(sqlite3.connect(home.path / database)) as connection:
        return connection.execute(query).fetchall()


def resumed_from(home):
    """Training step -> the optimizer step after which its last attempt went on."""
    names = {path.stem: json.loads(path.read_text())["name"] for path in home.path.glob("store/keys/train/*.json")}
    told = {key: json.loads((home.path / "store" / "notes" / key / "summary.json").read_text()) for key in names}
    return {name: told[key]["resumed_from_step"] for key, name in names.items()}


def curves(home):
    """Key -> (step, loss) of every line that training told."""
    lines = {path.parent.name: path.read_text().splitlines() for path in home.path.glob("store/notes/*/metrics.jsonl")}
    return {key: [(told["step"], told["loss"]) for told in map(json.loads, found)] for key, found in lines.items()}
