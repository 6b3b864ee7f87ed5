"""Which steps a preset's screening takes, what they read, and in which order they stand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from flows.choosing.choice import prepare
from flows.pipeline import in_order
from flows.screen import screen_steps
from tasks.filtering.removals import NO_REMOVALS
from tasks.request import Request, Step
from tests.flows.choices import CHOICE
from tinygptv_core.artifact import sha256_of_file
from tinygptv_core.plain import ConfigError, plain
from tinygptv_core.presets import NANO
from tinygptv_core.settings import Scorer

ENVIRONMENT = SimpleNamespace(removal_list=None, removals=NO_REMOVALS)


@pytest.fixture
def walked(tmp_path):
    """What a run of nano with these settings would walk, by name, in order."""

    def walked(*settings, removal_list=None):
        choice = replace(CHOICE, home=tmp_path, settings=settings, removal_list=removal_list)
        prepared = prepare(choice, writes=False)
        return {request.name: request for request in prepared.selection.walked}

    return walked


def test_where_no_rule_reads_hashes_there_are_none_and_the_index_is_asked_for_as_ever(walked):
    steps = walked()
    assert not [name for name in steps if name.endswith("/hash") or "/rate-" in name]
    assert steps["scenes_web/screen"].inputs == {"shards": "scenes_web/fetch"}
    assert plain(steps["scenes_web/screen"].config) == {"min_side": 32, "max_aspect": 3, "unique_bytes": True}


def test_data_sets_with_the_rule_are_kept_apart_in_the_presets_order(walked):
    steps = walked("data.scenes_web.screen.near_duplicate_bits=0", "data.scenes_alt.screen.near_duplicate_bits=4")
    assert steps["scenes_web/screen"].inputs == {"shards": "scenes_web/fetch", "hashes": "scenes_web/hash"}
    assert steps["scenes_alt/screen"].inputs == {
        "shards": "scenes_alt/fetch",
        "hashes": "scenes_alt/hash",
        "hashes.scenes_web": "scenes_web/hash",
        "index.scenes_web": "scenes_web/screen",
    }
    assert "scenes_vqa/hash" not in steps
    assert (steps["scenes_web/hash"].config, steps["scenes_alt/hash"].config) == ({"bordered": True},) * 2


def test_the_pictures_of_evaluations_are_hashed_before_what_is_held_against_them(walked):
    both = ("data.scenes_web.screen.evaluation_bits=4", "data.scenes_test.screen.evaluation_bits=4")
    steps = walked(*both)
    names = list(steps)
    assert names.index("scenes_test/hash") < names.index("scenes_web/screen")
    assert steps["scenes_web/screen"].inputs["evaluation.scenes_test"] == "scenes_test/hash"
    assert "vqa_unseen" in steps["scenes_web/screen"].config["evaluation_splits"]["scenes_test"]
    assert "hashes" not in steps["scenes_test/screen"].inputs  # an evaluation is not held against itself
    assert steps["scenes_test/hash"].config == {"bordered": False}


@pytest.mark.parametrize(("listed", "is_hashed"), [("phash:d1c4b2a0f0e81c3a", True), ("a.example", False)])
def test_a_removal_list_bears_on_every_index_and_its_hashes_need_those_of_the_pictures(
    walked, tmp_path, listed, is_hashed
):
    (tmp_path / "list.txt").write_text(f"{'ab' * 32}\n{listed}\n")
    steps = walked(removal_list=str(tmp_path / "list.txt"))
    inputs = steps["scenes_vqa/screen"].inputs
    assert inputs["removals"].digest == sha256_of_file(tmp_path / "list.txt")
    assert ("hashes" in inputs, "scenes_vqa/hash" in steps) == (is_hashed, is_hashed)


def with_scorer(file, **bounds):
    scorer = Scorer(file=str(file), name="likeness", **bounds)
    web = NANO.data["scenes_web"]
    data = {**NANO.data, "scenes_web": replace(web, screen=replace(web.screen, scorers=(scorer,)))}
    return replace(NANO, data=data)


def test_a_scorers_bytes_and_version_bear_on_its_scores_and_its_place_and_bounds_do_not(tmp_path):
    asked = []
    for place, text, bounds in (("a", "1", {}), ("b", "1", {}), ("a", "2", {}), ("a", "1", {"version": "2"})):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "s.py").write_text(text)
        rate, screening = screen_steps(
            with_scorer(tmp_path / place / "s.py", at_least=0.5, **bounds), "scenes_web", ENVIRONMENT
        )
        asked.append((rate.config, rate.inputs["scorer"].digest))
        assert screening.inputs == {"shards": "scenes_web/fetch", "scores.likeness": "scenes_web/rate-likeness"}
    assert asked[0] == asked[1] and len({str(item) for item in asked}) == 3
    other = screen_steps(with_scorer(tmp_path / "a" / "s.py", at_least=0.6), "scenes_web", ENVIRONMENT)
    assert other[0].config == asked[0][0] and other[1].config != screening.config


def test_a_scorers_file_that_is_not_there_is_found_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="scenes_web.screen.scorers.likeness.file: there is no Python file /none.py"):
        screen_steps(with_scorer("/none.py", at_least=0), "scenes_web", ENVIRONMENT)


def asking(name, *sources):
    step = Step(name="add", kind="number", version=1)
    return Request(
        name=name,
        step=step,
        config={},
        inputs=dict(zip("ab", sources, strict=False)),
        work=lambda inputs, folders: None,
    )


def test_steps_stand_as_given_but_after_what_they_read():
    given = [asking("a"), asking("b", "d"), asking("c"), asking("d", "a"), asking("e", "c", "b")]
    assert [request.name for request in in_order(given)] == ["a", "d", "b", "c", "e"]
    assert in_order(in_order(given)) == in_order(given)


def test_a_step_that_reads_what_none_makes_is_refused():
    with pytest.raises(ConfigError, match="b reads scenes/draw, which no step of this preset makes"):
        in_order([asking("a"), asking("b", "a", "scenes/draw")])
