from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.core import tiny
from tests.core.tiny_run import STAGE, only_letters, picture, write_backbones
from tinygptv_core.answer import (
    ModelCard,
    PictureQuestion,
    answer,
    ask_each,
    find_backbones,
    load_fresh,
    load_trained,
    picture_tokens,
)
from tinygptv_core.answering.decoding import greedy
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.checkpoint import write_checkpoint
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.stage import Lora
from tinygptv_core.trainable import load_trainable, trainable_parameters
from tinygptv_core.weights import load_backbones

CARD = ModelCard(
    backbones="tiny",
    backbones_digest="",
    checkpoint_digest="",
    prompt="[vqa] {}",
    max_new_tokens=6,
    precision="float32",
)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    torch.set_num_threads(1)
    return write_backbones(tmp_path_factory.mktemp("answer") / "backbones")


@pytest.fixture(scope="module")
def fresh(backbones):
    loaded = load_fresh(backbones, STAGE, "cpu")
    only_letters(loaded.model)
    return loaded


def quiet(done, total, what):
    assert 0 < done <= total


def test_a_written_checkpoint_answers_as_the_model_that_was_written(backbones, fresh, tmp_path):
    parameters = trainable_parameters(fresh.model)
    write_checkpoint(tmp_path, {name: value.detach() for name, value in parameters.items()}, STAGE)
    again = load_trained(backbones, tmp_path, "float32", "cpu")
    only_letters(again.model)
    asked = [(picture(number), f"what is {number}?") for number in range(3)]
    assert ask_each(again, CARD, asked) == ask_each(fresh, CARD, asked)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_16_bits_no_linear_is_wider_and_the_model_computes_the_same_bits(backbones, tmp_path, precision):
    """As with what was trained in float32, which autocast would bring to 16 bits each time."""
    stage, dtype = replace(STAGE, lora=Lora(rank=2, alpha=4, dropout=0.0)), getattr(torch, precision)
    wide = TinyGPTV.from_backbones(load_backbones(backbones, dtype), stage.lora, seed=3).eval()
    parameters = trainable_parameters(wide)
    generator = torch.Generator().manual_seed(4)
    values = {name: torch.randn(value.shape, generator=generator) for name, value in parameters.items()}
    write_checkpoint(tmp_path, values, stage)
    load_trainable(wide, values, new_lora=False)
    narrow = load_trained(backbones, tmp_path, precision, "cpu").model
    linears = [module.weight.dtype for module in narrow.modules() if isinstance(module, nn.Linear)]
    assert set(linears) == {dtype}
    with torch.autocast("cpu", dtype), torch.no_grad():
        assert torch.equal(narrow(tiny.batch())[0], wide(tiny.batch())[0])


def test_the_same_question_about_the_same_picture_is_answered_once(fresh):
    told = []
    asked = [PictureQuestion(text="what?", prompt="{}", picture=number) for number in (0, 1, 0, 0)]
    image_PQD = picture_tokens(fresh, [picture(1), picture(2)])
    texts = answer(fresh, asked, image_PQD, greedy(4, "###"), lambda done, total, what: told.append((done, total)))
    assert told == [(2, 2)]
    assert texts[0] == texts[2] == texts[3]


def test_a_question_with_its_own_task_word_is_asked_as_it_stands(fresh):
    shown = picture(1)
    bare, worded = ask_each(fresh, CARD, [(shown, "what?"), (shown, "[vqa] what?")])
    assert bare == worded
    assert ask_each(fresh, CARD, []) == []


def test_a_picture_is_looked_at_once_however_many_questions_follow(fresh):
    asked = [(picture(number), f"what is {word}?") for word in "abc" for number in (1, 2)]
    looked = []
    handle = fresh.model.vision.register_forward_hook(lambda module, given, out: looked.append(len(given[0])))
    together = ask_each(fresh, CARD, asked)
    handle.remove()
    assert looked == [2]
    assert together == [ask_each(fresh, CARD, [one])[0] for one in asked]


def test_an_answer_is_cut_at_its_most_tokens(fresh):
    image_PQD = picture_tokens(fresh, [picture(1)])
    for most in (1, 3):
        (text,) = answer(
            fresh, [PictureQuestion(text="what?", prompt="{}", picture=0)], image_PQD, greedy(most, "###"), quiet
        )
        assert len(text) == most


def test_backbones_are_found_by_their_digest_wherever_they_lie(backbones, tmp_path):
    digest = digest_of(members_of(backbones))
    assert find_backbones("tiny", digest, [tmp_path / "gone", tmp_path, backbones]) == backbones


def test_missing_backbones_are_named_with_the_places_that_were_looked_in(backbones, tmp_path):
    with pytest.raises(ConfigError) as refused:
        find_backbones("tiny", "0" * 64, [tmp_path / "gone", backbones])
    message = str(refused.value)
    assert "the backbones tiny (000000000000) are missing" in message
    assert f"{tmp_path / 'gone'}: no such folder" in message
    assert f"{backbones}: holds {digest_of(members_of(backbones))[:12]}" in message
    assert "tinygptv_core/backbones/tiny: no such folder" in message
