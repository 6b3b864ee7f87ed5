"""The scores of the evaluations of `nano`, worked by hand."""

import pytest

from tinygptv_core import evals
from tinygptv_core.answering.scoring import box_hit, same_words
from tinygptv_core.evals import scenes_caption


@pytest.mark.parametrize(
    ("answer", "score"),
    [("top left", 1.0), (" The top-left.", 1.0), ("left", 0.0), ("top left corner", 0.0), ("", 0.0), ("the", 0.0)],
)
def test_an_answer_is_right_when_it_is_the_reference_but_for_case_articles_and_marks(answer, score):
    assert same_words(answer, ("top left",)) == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("{<0><0><40><40>}", 1.0),
        ("there: {<0><0><40><40>} and {<90><90><99><99>}", 1.0),
        ("{<0><0><40><21>}", 1.0),  # 840 of 1600
        ("{<0><0><40><20>}", 0.0),  # 800 of 1600 is not more than a half
        ("{<20><0><60><40>}", 0.0),  # 800 of 2400
        ("{<41><0><60><40>}", 0.0),
        ("{<40><40><0><0>}", 0.0),
        ("{<0><0><40>}", 0.0),
        ("top left", 0.0),
    ],
)
def test_a_box_is_right_when_it_overlaps_by_more_than_half(answer, score):
    assert box_hit(answer, ("{<0><0><40><40>}",)) == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("red circle on white", 1.0),
        ("circle red on white", 0.75),  # three of four words in order, on both sides
        ("red circle", 2 * 2 / (2 + 4)),
        ("blue star", 0.0),
        ("", 0.0),
    ],
)
def test_a_caption_is_scored_by_the_words_in_common_in_order(answer, score):
    assert scenes_caption.rouge_l(answer, ("a red circle on white",)) == pytest.approx(score)


def test_of_several_references_the_best_counts():
    assert scenes_caption.rouge_l("blue star", ("red circle", "a blue star")) == 1.0


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("scenes_vqa", "accuracy"),
        ("scenes_vqa_unseen", "accuracy"),
        ("scenes_refer", "iou50"),
        ("scenes_caption", "rouge_l"),
    ],
)
def test_each_evaluation_reads_its_own_split_of_the_held_out_scenes(name, metric):
    evaluation = evals.load(name)
    assert (evaluation.dataset, evaluation.split) == ("scenes_test", name.removeprefix("scenes_"))
    assert evaluation.metric == metric
