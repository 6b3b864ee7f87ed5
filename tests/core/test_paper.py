"""The paper's stages, presets and evaluations against the numbers of its publication; scores worked by hand."""

from dataclasses import replace

import pytest

from tinygptv_core import evals
from tinygptv_core.answering.intervals import auroc
from tinygptv_core.answering.scoring import (
    box_published,
    exact,
    holds,
    says_yes,
    vizwiz_published,
    vqa_accuracy,
    vqa_normalized,
)
from tinygptv_core.evaluate import Answered, scores_of
from tinygptv_core.plain import from_plain, plain
from tinygptv_core.presets import AS_PUBLISHED, PAPER, Preset, named
from tinygptv_core.schedule import rate
from tinygptv_core.stages import PAPER_EVALS

STAGES = {stage.name: stage for stage in PAPER.stages}
PUBLISHED = {stage.name: stage for stage in AS_PUBLISHED.stages}


@pytest.mark.parametrize(
    ("stage", "pixels", "tokens", "steps", "start", "warmup", "peak", "end"),
    [
        ("stage1", 224, 32, 17_000, 1e-6, 1_000, 1e-4, 8e-5),
        ("stage2", 224, 32, 20_000, 1e-6, 5_000, 1e-4, 8e-5),
        ("stage3", 224, 160, 1_000, 1e-6, 200, 3e-5, 1e-5),
        ("stage4", 448, 1_024, 50_000, 1e-6, 1_000, 1e-5, 8e-6),
    ],
)
def test_a_stage_is_as_the_paper_has_it(stage, pixels, tokens, steps, start, warmup, peak, end):
    found, schedule = STAGES[stage], STAGES[stage].schedule
    assert (found.image_size, found.max_tokens, found.precision) == (pixels, tokens, "float16")
    assert (schedule.start, schedule.warmup_steps, schedule.peak, schedule.end) == (start, warmup, peak, end)
    assert schedule.steps == steps
    assert (found.lora is None) == (stage == "stage1")


def test_adapters_are_those_of_the_paper():
    assert {(s.lora.rank, s.lora.alpha, s.lora.dropout) for s in PAPER.stages if s.lora} == {(64, 16, 0.05)}


def test_the_mix_of_stage_4_is_the_released_one():
    mix = STAGES["stage4"].mix
    assert (len(mix), sum(share.weight for share in mix.values())) == (20, 690)
    assert {share.batch for share in mix.values()} == {1, 2, 3}
    assert STAGES["stage1"].mix == STAGES["stage2"].mix
    assert {name: (s.weight, s.batch) for name, s in STAGES["stage1"].mix.items()} == {
        "laion": (115, 64),
        "cc_sbu": (14, 64),
    }


def test_pre_training_draws_at_most_2_37_million_samples():
    assert sum(STAGES[name].schedule.steps * 64 for name in ("stage1", "stage2")) == 2_368_000


def test_as_published_has_the_mistakes_that_its_weights_were_trained_with():
    assert [PUBLISHED[name].schedule.steps for name in STAGES] == [85_000, 20_000, 1_000, 50_000]
    assert [PUBLISHED[name].schedule.published_epoch_steps for name in STAGES] == [5_000, 5_000, 200, 1_000]
    assert PUBLISHED["stage1"].lora == STAGES["stage2"].lora
    assert {(stage.dialect, stage.clip_norm) for stage in AS_PUBLISHED.stages} == {("published", None)}
    rising = PUBLISHED["stage4"].schedule
    assert (rising.peak, rising.end) == (1e-5, 8e-5)
    assert rate(rising, 49_999) == pytest.approx(8e-5, rel=1e-3)
    assert PUBLISHED["stage4"].asks == "###Human: {}###Assistant: "


@pytest.mark.parametrize("preset", [PAPER, AS_PUBLISHED], ids=lambda preset: preset.name)
def test_a_preset_survives_the_way_through_json(preset: Preset):
    assert from_plain(Preset, plain(preset)) == preset == named(preset.name)


@pytest.mark.parametrize("name", PAPER_EVALS)
def test_an_evaluation_asks_a_data_set_that_no_stage_trains_on(name: str):
    found = evals.load(name)
    assert found.dataset in PAPER.data
    assert found.dataset not in {drawn for stage in PAPER.stages for drawn in stage.mix}
    assert found.prompt.count("{}") == 1
    assert ("vqa" in name) == (not name.startswith("refcoco"))


def test_beside_the_strict_score_stands_the_papers():
    found = {name: [beside.metric for beside in evals.load(name).beside] for name in PAPER_EVALS}
    assert {name for name, beside in found.items() if beside == []} == {"iconqa_vqa", "ok_vqa"}
    assert {tuple(beside) for beside in found.values()} == {(), ("as_published",)}


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("The two dogs, playing!", "2 dogs playing"),
        ("top-left", "top left"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("don't", "dont"),
        ("None", "0"),
        ("An\n a\tthe", ""),
    ],
)
def test_an_answer_is_normalized_as_vqa_does(answer: str, normalized: str):
    assert vqa_normalized(answer) == normalized


@pytest.mark.parametrize(
    ("answer", "strict", "published"),
    [("Yes.", 1.0, 1.0), ("yes, it is", 0.0, 1.0), ("no", 0.0, 0.0), ("", 0.0, 0.0)],
)
def test_gqa_is_right_when_it_is_the_answer_or_as_published_holds_it(answer: str, strict: float, published: float):
    assert (exact(answer, ("yes",)), holds(answer, ("yes",))) == (strict, published)


@pytest.mark.parametrize(
    ("answer", "strict", "published"), [("True", 1.0, 1.0), ("not true", 0.0, 1.0), ("false", 0.0, 0.0)]
)
def test_vsr_is_right_when_it_is_the_word_or_as_published_holds_it(answer: str, strict: float, published: float):
    found = evals.load("vsr_vqa")
    assert (found.score(answer, ("true",)), found.beside[0].score(answer, ("true",))) == (strict, published)


@pytest.mark.parametrize(("answer", "right"), [("unlikely", 1.0), ("certain", 0.0), ("Unlikely", 1.0)])
def test_iconqa_is_right_when_the_choice_is(answer: str, right: float):
    assert evals.load("iconqa_vqa").score(answer, ("unlikely",)) == right


@pytest.mark.parametrize(
    ("answer", "strict", "published"),
    [
        ("can", 0.3, 1.0),  # one says so: nine times 1/3, once 0; but four answers hold it
        ("a soda can", 0.9, 1.0),  # three say so: three times 2/3, seven times 1
        ("bottle", 0.0, 0.0),
        ("", 0.0, 1.0),  # an empty answer is part of every other
        ("I see a soda can and more", 0.0, 1.0),
    ],
)
def test_vizwiz_leaves_each_person_out_and_as_published_lets_parts_match(answer: str, strict: float, published: float):
    people = ("a soda can", "soda can", "the soda can", "can", *("unanswerable",) * 6)
    assert evals.load("vizwiz_vqa").score(answer, people) == pytest.approx(strict)
    assert vizwiz_published(answer, people) == published


@pytest.mark.parametrize(("same", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ok_vqa_leaves_each_person_out(same: int, score: float):
    assert vqa_accuracy("race", ("Race",) * same + ("surf",) * (10 - same)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "reference", "strict", "published"),
    [("yes", "yes", 1.0, 1.0), ("Yes, it is", "yes", 0.0, 1.0), ("maybe", "no", 0.0, 1.0), ("no", "yes", 0.0, 0.0)],
)
def test_a_meme_is_hateful_when_the_answer_is_yes(answer: str, reference: str, strict: float, published: float):
    assert (exact(answer, (reference,)), says_yes(answer, (reference,))) == (strict, published)


@pytest.mark.parametrize(
    ("answer", "strict", "published"),
    [
        ("{<0><0><9><9>}", 1.0, 1.0),
        ("{<0><0><9><5>}", 1.0, 1.0),  # 45 of 81; 60 of 100
        ("{<0><0><9><4>}", 0.0, 0.0),  # 36 of 81; 50 of 100, not more than a half
        ("{<0><0><3><11>}", 0.0, 0.0),
        ("{ <0> <0> <9> <9> }", 0.0, 1.0),  # spaces are taken out as published
        ("there", 0.0, 0.0),
    ],
)
def test_a_box_counts_when_it_overlaps_by_more_than_half(answer: str, strict: float, published: float):
    reference = ("{<0><0><9><9>}",)
    assert (evals.load("refcoco_val").score(answer, reference), box_published(answer, reference)) == (strict, published)


def line(answer: str, reference: str, picture: int = 0, probability: float | None = None) -> Answered:
    return Answered(
        eval="e",
        key="1",
        question="q",
        answer=answer,
        references=(reference,),
        score=exact(answer, (reference,)),
        control_answer="no",
        control_score=exact("no", (reference,)),
        control_key="2",
        picture=picture,
        probability=probability,
        control_probability=None if probability is None else 0.5,
    )


def test_every_metric_of_an_evaluation_is_reported_with_its_control():
    lines = [line("yes", "yes"), line("yes, yes", "yes"), line("no", "yes"), line("no", "no")]
    found = scores_of(evals.load("gqa_vqa"), lines)
    assert {metric: (score.value, score.n) for metric, score in found.items()} == {
        "accuracy": (0.5, 4),
        "as_published": (0.75, 4),
    }
    assert {metric: score.control.value for metric, score in found.items() if score.control} == {
        "accuracy": 0.25,
        "as_published": 0.25,
    }


def test_as_published_one_sentence_of_each_picture_counts():
    box, other = "{<0><0><9><9>}", "{<50><50><99><99>}"
    lines = [line(box, box, 1), line(other, box, 1), line(other, box, 1), line(box, box, 2)]
    scored = [replace(one, score=float(one.answer == box)) for one in lines]
    found = scores_of(evals.load("refcoco_val"), scored)
    assert {metric: (score.value, score.n) for metric, score in found.items()} == {
        "iou50": (0.5, 4),
        "as_published": (1.0, 2),
    }


@pytest.mark.parametrize(
    ("probabilities", "positive", "area"),
    [
        ((0.9, 0.8, 0.3, 0.1), (True, True, False, False), 1.0),
        ((0.9, 0.2, 0.3, 0.1), (True, True, False, False), 0.75),  # three of four pairs
        ((0.5, 0.5), (True, False), 0.5),
        ((0.5, 0.9), (True, True), 0.5),
        ((0.1, 0.9), (True, False), 0.0),
    ],
)
def test_auroc_is_the_share_of_pairs_in_the_right_order(probabilities, positive, area):
    found = auroc(probabilities, positive)
    assert found.value == area
    assert 0 <= found.low <= found.high <= 1


def test_memes_have_an_auroc():
    lines = [line("yes", "yes", 0, 0.9), line("no", "yes", 1, 0.2), line("no", "no", 2, 0.3), line("no", "no", 3, 0.1)]
    found = scores_of(evals.load("hateful_memes_vqa"), lines)
    assert {metric: score.value for metric, score in found.items()} == {
        "accuracy": 0.75,
        "as_published": 0.75,
        "auroc": 0.75,
    }
    assert found["auroc"].control and found["auroc"].control.value == 0.5
