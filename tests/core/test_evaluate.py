import json
import math
from dataclasses import replace

import pytest
import torch

from tests.core.tiny_run import STAGE, only_letters, picture, write_backbones
from tinygptv_core import answer as answering
from tinygptv_core import evals
from tinygptv_core.answer import load_fresh
from tinygptv_core.answering.intervals import bootstrap, interval, wilson
from tinygptv_core.evaluate import (
    Answered,
    EvalQuestion,
    Gallery,
    Results,
    control_of,
    derange,
    evaluate,
    score,
    write_results,
)
from tinygptv_core.plain import ConfigError
from tinygptv_core.recipe import Turn
from tinygptv_core.shards import Sample


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    backbones = write_backbones(tmp_path_factory.mktemp("evaluate") / "backbones")
    loaded = load_fresh(backbones, replace(STAGE, lora=None), "cpu")
    only_letters(loaded.model)
    return loaded


def sample(number, *, truth="red", group="colour", split="vqa", shown=None):
    turns = (Turn("user", f"what is {number}" + "?" * number), Turn("assistant", truth))
    return Sample(
        key=f"{number:09d}",
        picture=picture(number if shown is None else shown),
        turns=turns,
        split=split,
        group=group,
    )


class Held(list):
    """Samples to read from that note whose pictures were read."""

    def __init__(self, samples):
        super().__init__(samples)
        self.seen = []

    def texts(self):
        return (replace(sample, picture=None) for sample in self)

    def read(self, positions):
        self.seen += positions
        return [self[position] for position in positions]


def question(number, group, shown):
    return EvalQuestion(key=str(number), text="", references=("red",), group=group, picture=shown)


def line(own, control):
    return Answered(
        eval="e",
        key="1",
        question="q",
        answer="a",
        references=("r",),
        score=own,
        control_answer=None if control is None else "c",
        control_score=control,
        control_key=None if control is None else "2",
        picture=0,
    )


def quiet(done, total, what):
    assert 0 < done <= total


def test_wilson_agrees_with_a_calculation_by_hand():
    # 8 of 10: (0.8 + 0.19207) / 1.38415 = 0.71673, plus or minus 1.95996 * sqrt(0.016 + 0.0096037) / 1.38415 = 0.22657
    got = wilson(8, 10)
    assert (got.value, got.low, got.high) == (0.8, pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0, 3.8415 / 13.8415), (10, 10 / 13.8415, 1)])
def test_wilson_has_width_where_all_or_none_is_hit(hits, low, high):
    got = wilson(hits, 10)
    assert (got.low, got.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert got.low == 0 or got.high == 1


def test_the_bootstrap_of_two_scores_reaches_from_one_to_the_other():
    # Both draws are the lower one in a quarter of all resamples, and both the higher one in another quarter.
    got = bootstrap([0.2, 0.8])
    assert (got.value, got.low, got.high) == (0.5, pytest.approx(0.2), pytest.approx(0.8))


def test_the_bootstrap_of_many_scores_is_near_the_normal_interval():
    # 200 scores, half 0.25 and half 0.75: the mean's standard error is 0.25 / sqrt(200) = 0.01768.
    got = bootstrap([0.25, 0.75] * 100)
    assert got.value == 0.5
    assert (got.low, got.high) == (pytest.approx(0.5 - 1.96 * 0.01768, abs=3e-3), pytest.approx(0.53465, abs=3e-3))
    assert got == bootstrap([0.25, 0.75] * 100)


def test_scores_of_0_and_1_get_wilsons_interval_and_others_the_bootstraps():
    assert interval([1.0, 0.0]) == wilson(1, 2)
    assert interval([0.2, 0.8]) == bootstrap([0.2, 0.8])


def test_the_control_is_scored_over_the_questions_that_have_one():
    got = score([line(1.0, 0.0), line(1.0, 1.0), line(0.0, None), line(1.0, 0.0)])
    assert (got.n, got.value) == (4, 0.75)
    assert got.control == wilson(1, 3)
    assert score([line(1.0, None)]).control is None


@pytest.mark.parametrize("seed", ["a", "b", "c"])
@pytest.mark.parametrize("items", [range(2), range(7), [1, 1, 2, 2, 3], [5, 5, 5, 1, 2, 3], [1, 2] * 6])
def test_a_derangement_gives_everybody_another_and_each_once(items, seed):
    donors = derange(list(items), seed)
    assert sorted(donors) == list(range(len(items)))
    assert all(items[donor] != items[position] for position, donor in enumerate(donors))


def test_a_derangement_depends_on_the_seed_alone():
    assert derange(range(30), "a") == derange(range(30), "a") != derange(range(30), "b")


def test_the_surplus_of_a_common_picture_gets_none():
    # Three of four show picture 7: one of them can get 5, and 5 gets a 7; the other two have no other picture left.
    donors = derange([7, 7, 7, 5], "a")
    assert donors[3] in (0, 1, 2)
    assert sorted(donor is None for donor in donors[:3]) == [False, True, True]
    assert derange([4], "a") == [None]
    assert derange([], "a") == []


def test_pictures_are_exchanged_within_a_question_type():
    groups = ["colour", "count", "colour", "count", "colour", "alone"]
    questions = [question(number, group, number) for number, group in enumerate(groups)]
    donors = control_of(questions, seed="x")
    assert donors[5] is None
    for position, donor in enumerate(donors[:5]):
        assert donor != position
        assert groups[donor] == groups[position]


def test_each_distinct_picture_goes_through_the_tower_once(trained):
    looked = []
    handle = trained.model.vision.register_forward_hook(lambda module, given, out: looked.append(len(given[0])))
    gallery = Gallery(trained, None)
    positions = [gallery.add(picture(number)) for number in (3, 4, 3, 3, 4, 5)]
    tokens = gallery.tokens()
    handle.remove()
    assert positions == [0, 1, 0, 0, 1, 2]
    assert sum(looked) == len(tokens) == 3


def test_a_model_is_right_when_the_truth_is_what_it_says(trained):
    samples = [sample(number) for number in range(6)]
    first = evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(samples)}, quiet)
    said = [one.answer for one in first.answers]
    own_truth = [sample(number, truth=text) for number, text in enumerate(said)]
    results = evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(own_truth)}, quiet)
    got = results.scores["scenes_vqa"]["accuracy"]
    assert (got.value, got.n) == (1.0, 6)
    assert [one.key for one in results.answers] == [one.key for one in samples]
    for one in results.answers:
        assert one.control_key != one.key
        assert one.control_score == (one.control_answer == one.answer)


def test_answers_do_not_depend_on_the_batch_nor_on_the_order(trained, monkeypatch):
    samples = [sample(number, shown=number % 4) for number in range(9)]
    whole = evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(samples)}, quiet)
    monkeypatch.setattr(answering, "QUESTIONS_AT_ONCE", 2)
    assert evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(samples)}, quiet) == whole
    turned = evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(samples[::-1])}, quiet)
    assert [one.answer for one in turned.answers[::-1]] == [one.answer for one in whole.answers]


def test_other_splits_are_not_asked_and_a_missing_one_is_named(trained):
    samples = Held([sample(0), sample(1), sample(2, split="other")])
    results = evaluate(trained, ["scenes_vqa"], {"scenes_test": samples}, quiet)
    assert samples.seen == [0, 1]
    assert [one.key for one in results.answers] == ["000000000", "000000001"]
    with pytest.raises(ConfigError, match=r"no sample of split vqa.*Its splits are: other\."):
        evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(samples[2:])}, quiet)


def test_an_evaluation_may_ask_the_same_of_every_picture_and_leave_the_samples_questions(trained, monkeypatch):
    changed = replace(evals.load("scenes_vqa"), prompt="[caption] describe it")
    monkeypatch.setattr(evals, "load", lambda name: changed)
    own = evaluate(trained, ["scenes_vqa"], {"scenes_test": Held([sample(0), sample(1)])}, quiet)
    others = [sample(0), replace(sample(1), turns=(Turn("user", "who?"), Turn("assistant", "red")))]
    given = evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(others)}, quiet)
    assert [one.answer for one in given.answers] == [one.answer for one in own.answers]


def test_a_sample_without_picture_is_refused(trained):
    blind = Sample(key="7", picture=None, turns=sample(0).turns, split="vqa", group=None)
    with pytest.raises(ValueError, match="sample 7, which evaluation scenes_vqa asks about, has no picture"):
        evaluate(trained, ["scenes_vqa"], {"scenes_test": Held([blind])}, quiet)


def answering_with(monkeypatch, scoring):
    """The evaluation scenes_vqa, scored by `scoring`."""
    changed = replace(evals.load("scenes_vqa"), score=scoring)
    monkeypatch.setattr(evals, "load", lambda name: changed)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (2.0, "is 2.0"),
        (-0.5, "is -0.5"),
        (math.nan, "is nan"),
        (None, "is None"),
        ("x", "is 'x'"),
        ("1", "is '1'"),
        ([1, 1], "is .1, 1."),
    ],
)
def test_a_score_that_is_none_names_evaluation_question_and_line(trained, monkeypatch, given, said):
    answering_with(monkeypatch, lambda answer, references: given)
    where = r"evaluation scenes_vqa, question 000000000: the score of the answer ''"
    with pytest.raises(
        ConfigError, match=rf"{where} {said}; it must be a number in 0..1 \(.*test_evaluate.py, line \d+"
    ):
        evaluate(trained, ["scenes_vqa"], {"scenes_test": Held([sample(0)])}, quiet)


def test_a_score_that_fails_is_told_before_a_question_is_asked(trained, monkeypatch):
    answering_with(monkeypatch, lambda answer, references: 1 / len(answer))
    asked = []
    with pytest.raises(
        ConfigError, match=r"failed: ZeroDivisionError: division by zero \(.*test_evaluate.py, line \d+"
    ):
        evaluate(trained, ["scenes_vqa"], {"scenes_test": Held([sample(0)])}, lambda *told: asked.append(told))
    assert not asked


def test_a_score_that_fails_for_a_later_question_names_that(trained, monkeypatch):
    answering_with(monkeypatch, lambda answer, references: {"red": 0.5, "blue": 3}[references[0]])
    samples = [sample(0), sample(1, truth="blue")]
    with pytest.raises(ConfigError, match="question 000000001: .* is 3; it must be a number in 0..1"):
        evaluate(trained, ["scenes_vqa"], {"scenes_test": Held(samples)}, quiet)


def test_a_score_beside_another_is_looked_at_too(trained, monkeypatch):
    changed = replace(
        evals.load("scenes_vqa"), beside=(evals.SecondaryMetric(metric="m", score=lambda answer, references: 7),)
    )
    monkeypatch.setattr(evals, "load", lambda name: changed)
    with pytest.raises(ConfigError, match="is 7; it must be a number in 0..1"):
        evaluate(trained, ["scenes_vqa"], {"scenes_test": Held([sample(0)])}, quiet)


def test_rounding_beyond_1_is_1():
    assert evals.scored("e", lambda answer, references: 1 + 4e-16, "1", "a", ("r",)) == 1.0
    assert evals.scored("e", lambda answer, references: True, "1", "a", ("r",)) == 1.0


def test_what_is_written_is_what_the_map_says(tmp_path):
    answers = (line(1.0, 0.0), line(1.0, None))
    write_results(Results(scores={"e": {"accuracy": score(answers)}}, answers=answers), tmp_path)
    told = json.loads((tmp_path / "scores.json").read_text())["e"]["accuracy"]
    assert {name: told[name] for name in ("value", "n")} == {"value": 1.0, "n": 2}
    assert told["control"].keys() == {"value", "low", "high"}
    lines = [json.loads(text) for text in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "eval": "e",
        "key": "1",
        "question": "q",
        "answer": "a",
        "references": ["r"],
        "score": 1.0,
        "control_answer": "c",
        "control_score": 0.0,
        "control_key": "2",
    }


def with_choices(number: int) -> Sample:
    turns = (Turn("user", f"which {number}?"), Turn("choice", "aa"), Turn("choice", "b"), Turn("assistant", "b"))
    return Sample(key=str(number), picture=picture(number), turns=turns, split=None, group=None)


def test_where_there_are_choices_the_answer_is_the_likeliest_of_them(trained):
    samples = [with_choices(number) for number in range(3)]
    found = evaluate(trained, ["iconqa_vqa"], {"iconqa_test": Held(samples)}, quiet)
    asked = [answering.PictureQuestion(text=f"which {number}?", prompt="{}", picture=number) for number in range(3)]
    image_PQD = answering.picture_tokens(trained, [one.picture for one in samples if one.picture])
    rankings = answering.ranked(trained, asked, [("aa", "b")] * 3, image_PQD, quiet)
    assert [line.answer for line in found.answers] == [("aa", "b")[ranking.order[0]] for ranking in rankings]
    assert {line.answer for line in found.answers} <= {"aa", "b"}
    assert [line.score for line in found.answers] == [float(line.answer == "b") for line in found.answers]


def test_choices_for_some_questions_alone_are_refused(trained):
    odd = Sample(key="9", picture=picture(9), turns=(Turn("user", "q"), Turn("assistant", "b")), split=None, group=None)
    with pytest.raises(ValueError, match="some questions have choices and some have none"):
        evaluate(trained, ["iconqa_vqa"], {"iconqa_test": Held([with_choices(0), odd])}, quiet)


def test_the_probability_of_yes_is_that_of_its_tokens_against_those_of_no(trained, tmp_path):
    turns = [(Turn("user", f"text {number}"), Turn("assistant", ("yes", "no")[number % 2])) for number in range(4)]
    samples = [
        Sample(key=str(number), picture=picture(number), turns=said, split=None, group=None)
        for number, said in enumerate(turns)
    ]
    found = evaluate(trained, ["hateful_memes_vqa"], {"hateful_memes_test": Held(samples)}, quiet)
    assert set(found.scores["hateful_memes_vqa"]) == {"accuracy", "as_published", "auroc"}
    prompt = 'The text on this picture is "{}". Is it hateful? yes or no'
    asked = [answering.PictureQuestion(text=f"text {number}", prompt=prompt, picture=number) for number in range(4)]
    image_PQD = answering.picture_tokens(trained, [one.picture for one in samples if one.picture])
    rankings = answering.ranked(trained, asked, [("yes", "no")] * 4, image_PQD, quiet)
    # exp(-yes) / (exp(-yes) + exp(-no)), both divided by exp(-yes)
    expected = [1 / (1 + math.exp(ranking.sums[0] - ranking.sums[1])) for ranking in rankings]
    assert [line.probability for line in found.answers] == pytest.approx(expected, abs=1e-5)
    write_results(found, tmp_path)
    line = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert {"probability", "control_probability"} <= line.keys() and "picture" not in line


def test_every_text_of_an_answer_is_a_reference(trained):
    turns = (Turn("user", "what?"), Turn("assistant", "a", ("b", "a")))
    samples = [Sample(key=str(n), picture=picture(n), turns=turns, split=None, group=None) for n in range(2)]
    found = evaluate(trained, ["ok_vqa"], {"ok_vqa_test": Held(samples)}, quiet)
    assert found.answers[0].references == ("a", "b", "a")
