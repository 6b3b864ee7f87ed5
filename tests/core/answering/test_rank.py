import pytest
import torch

from tests.core import tiny
from tinygptv_core.answering.rank import rank
from tinygptv_core.batch import IGNORED
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prompt import Encoded


@pytest.fixture(scope="module")
def model() -> TinyGPTV:
    return TinyGPTV.from_backbones(tiny.backbones(seed=5), None, seed=2).eval()


def choice(question: list[int], answer: list[int]) -> Encoded:
    return Encoded(ids=(*question, *answer), labels=(*[IGNORED] * len(question), *answer), slot=None)


FIRST = [choice([tiny.END, 2], answer) for answer in ([3], [4, 5], [6, 3, 2])]
SECOND = [choice([tiny.END, 5, 6], answer) for answer in ([2, 2], [4])]


def test_a_choice_has_the_mean_loss_of_its_own_tokens(model):
    (ranking,) = rank(model, [FIRST], None, pad_id=tiny.END)
    scores_SV = model.llm(input_ids=torch.tensor([FIRST[1].ids])).logits[0].log_softmax(-1)
    assert ranking.losses[1] == pytest.approx(-(scores_SV[1, 4] + scores_SV[2, 5]).item() / 2, abs=1e-5)


def test_losses_of_logits_in_16_bit_are_computed_in_float32():
    """In bfloat16 they would have 8 bits."""
    narrow = TinyGPTV.from_backbones(tiny.backbones(seed=5), None, seed=2).eval().to(torch.bfloat16)
    (ranking,) = rank(narrow, [FIRST], None, pad_id=tiny.END)
    losses = torch.tensor(ranking.losses)
    assert (losses != losses.bfloat16().float()).all()


def test_the_least_loss_comes_first(model):
    (ranking,) = rank(model, [FIRST], None, pad_id=tiny.END)
    assert [ranking.losses[place] for place in ranking.order] == sorted(ranking.losses)


def test_of_equal_choices_the_earlier_comes_first(model):
    (ranking,) = rank(model, [[FIRST[0], FIRST[0]]], None, pad_id=tiny.END)
    assert ranking.order == (0, 1)


def test_questions_with_different_numbers_of_choices_are_ranked_each_for_itself(model):
    together = rank(model, [FIRST, SECOND], None, pad_id=tiny.END)
    alone = [rank(model, [of_one], None, pad_id=tiny.END)[0] for of_one in (FIRST, SECOND)]
    assert [ranking.order for ranking in together] == [ranking.order for ranking in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-5)


def test_each_question_is_ranked_about_its_own_picture(model):
    images_BQD = torch.linspace(-3, 3, 2 * 3 * 16).sin().mul(3).reshape(2, 3, 16)
    shown = [Encoded(ids=(tiny.SLOT, *one.ids), labels=(IGNORED, *one.labels), slot=0) for one in SECOND]
    both = rank(model, [shown, shown], images_BQD, pad_id=tiny.END)
    assert both[0].losses != pytest.approx(both[1].losses, abs=1e-3)
    assert both[1].losses == pytest.approx(rank(model, [shown], images_BQD[1:], pad_id=tiny.END)[0].losses, abs=1e-5)


def test_nothing_to_rank_and_a_model_in_training_are_refused(model):
    for choices in ([FIRST, []], [FIRST, [choice([2], [])]]):
        with pytest.raises(ValueError, match="question 1 has no choices"):
            rank(model, choices, None, pad_id=tiny.END)
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        rank(model.train(), [FIRST], None, pad_id=tiny.END)
    model.eval()
