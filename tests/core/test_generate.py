from dataclasses import replace

import pytest
import torch

from tests.core import reference, tiny
from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.generate import generate
from tinygptv_core.model import TinyGPTV

QUESTIONS = ([tiny.END, tiny.SLOT, 2, 3], [tiny.END, 4, tiny.SLOT, 5, 6, 2, 3], [tiny.SLOT, 6])


@pytest.fixture(scope="module")
def model() -> TinyGPTV:
    """With attention weighty enough for its words to follow from the question, and no end of text."""
    made = TinyGPTV.from_backbones(tiny.backbones(seed=5), None, seed=2).eval()
    with torch.no_grad():
        made.llm.lm_head.bias[[tiny.END, tiny.SLOT]] = -1e4
        for layer in made.llm.model.layers:
            layer.post_layernorm.weight.fill_(4)
    return made


def padded_left(rows: list[list[int]], slots: list[int], images_B3HW: torch.Tensor, pad: int) -> Batch:
    """`rows` as long as the longest of them; `slots` counted in each row."""
    T = max(len(row) for row in rows)
    ids_BT = torch.tensor([[pad] * (T - len(row)) + row for row in rows])
    return Batch(
        images_B3HW=images_B3HW,
        ids_BT=ids_BT,
        labels_BT=torch.full_like(ids_BT, IGNORED),
        mask_BT=torch.tensor([[False] * (T - len(row)) + [True] * len(row) for row in rows]),
        slot_B=torch.tensor([T - len(row) + slot for row, slot in zip(rows, slots, strict=True)]),
        keys=tuple(str(row) for row in range(len(rows))),
    )


def questions(chosen: list[int]) -> Batch:
    images_B3HW = torch.linspace(-3, 3, 3 * 3 * 8 * 8).sin().mul(3).reshape(3, 3, 8, 8)
    rows = [QUESTIONS[index] for index in chosen]
    return padded_left(rows, [row.index(tiny.SLOT) for row in rows], images_B3HW[chosen], tiny.END)


def answer(model: TinyGPTV, batch: Batch, stop: str = "#", **known: torch.Tensor) -> list[str]:
    return generate(model, batch, tokenizer=tiny.tokenizer(), max_new_tokens=8, stop=stop, **known)


def test_answers_are_the_references():
    """Three questions of different lengths, twelve tokens each, after stage 3."""
    case, told = reference.golden("cases/stage3_generate"), reference.told("cases/stage3_generate")
    rows = [[*before, 0, *after] for before, after in zip(told["before"], told["after"], strict=True)]
    batch = padded_left(rows, [len(before) for before in told["before"]], case["pixel_values"], reference.END)
    tokenizer, model = reference.tokenizer(), reference.model(stage=3)
    _, mask_BS = model.embed(batch, model.images(batch, None))
    assert torch.equal(mask_BS.long(), case["attention_mask"])
    found = generate(model, batch, tokenizer=tokenizer, max_new_tokens=12, stop="###")
    assert found == [tokenizer.decode(row) for row in case["generated_ids"]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_answer_does_not_depend_on_what_is_asked_beside_it(model, attention):
    model.llm.set_attn_implementation(attention)
    alone = [answer(model, questions([index]))[0] for index in (0, 1, 2)]
    assert answer(model, questions([0, 1, 2])) == alone
    assert answer(model, questions([2, 0])) == [alone[2], alone[0]]
    assert len(set(alone)) == 3
    assert all(len(text.split()) == 8 for text in alone)


def test_each_token_is_the_most_probable_after_those_before_it(model):
    """By the plain forward pass, without cache and padding."""
    batch = questions([1])
    for word in answer(model, batch)[0].split():
        embeds_BSD, _ = model.embed(batch, model.images(batch, None))
        token = model.llm(inputs_embeds=embeds_BSD).logits[0, -1].argmax().item()
        assert tiny.WORDS[token] == word
        batch = replace(
            batch,
            ids_BT=torch.cat([batch.ids_BT, torch.tensor([[token]])], dim=1),
            mask_BT=torch.ones(1, batch.ids_BT.shape[1] + 1, dtype=torch.bool),
        )


def test_an_answer_ends_before_the_stop_text_even_when_that_takes_two_tokens(model):
    assert answer(model, questions([0, 1])) == ["e b e b e e e b", "c b c b c b b b"]
    assert answer(model, questions([0, 1]), stop="b b") == ["e b e b e e e b", "c b c b c "]
    assert answer(model, questions([0, 1]), stop="e b") == ["", "c b c b c b b b"]


def test_an_answer_ends_at_the_end_of_text(model):
    bias_V = model.llm.lm_head.bias
    with torch.no_grad():
        bias_V[tiny.END] = 1e4
        ended = answer(model, questions([0, 1]))
        bias_V[tiny.END] = -1e4
    assert ended == ["", ""]


def test_pictures_that_are_projected_already_give_the_same_answers(model):
    batch = questions([0, 1])
    image_BQD = model.images(batch, None)
    assert answer(model, replace(batch, images_B3HW=None), image_BQD=image_BQD) == answer(model, batch)


def test_text_alone_is_answered(model):
    batch = replace(questions([1]), images_B3HW=None, slot_B=None)
    token = model.llm(input_ids=batch.ids_BT).logits[0, -1].argmax().item()
    assert answer(model, batch)[0].split()[0] == tiny.WORDS[token]


def test_a_model_in_training_a_batch_padded_right_and_an_empty_stop_are_refused(model):
    batch = questions([0, 1])
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        answer(model.train(), batch)
    model.eval()
    with pytest.raises(ValueError, match="padded on the left"):
        answer(model, replace(batch, mask_BT=batch.mask_BT.flip(1)))
    with pytest.raises(ValueError, match="stop is empty"):
        answer(model, batch, stop="")
