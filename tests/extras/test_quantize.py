import sys
import weakref
from random import Random

import pytest
import torch

from tinygptv_core import prompt
from tinygptv_core.answer import Trained, load_fresh, load_trained
from tinygptv_core.answering.decoding import greedy
from tinygptv_core.checkpoint import Checkpoint, save_checkpoint
from tinygptv_core.checkpoint_form import form_of
from tinygptv_core.generate import generate
from tinygptv_core.plain import ConfigError
from tinygptv_core.quantize import large_linears, lowering, quantize
from tinygptv_core.scenes.scene import draw_scene
from tinygptv_core.scenes.texts import text_question
from tinygptv_core.settings import SHIPPED
from tinygptv_core.stage import PHI_QUESTION
from tinygptv_core.stages import NANO_STAGE2
from tinygptv_core.trainable import trainable_parameters
from tinygptv_core.weights import load_backbones

NUM_QUESTIONS = 60


def nano() -> Trained:
    torch.set_num_threads(1)
    return load_fresh(SHIPPED / "nano", NANO_STAGE2, "cpu")


def answers(trained: Trained) -> list[str]:
    """What it says to questions about scenes in words, which it has learned to read."""
    random, tokenizer = Random(1), trained.tokenizer
    texts = [text_question(random, draw_scene(random, "held_out")).text for _ in range(NUM_QUESTIONS)]
    encoded = [
        prompt.encode_question(tokenizer, PHI_QUESTION.format(text), has_image=False, dialect="tinygptv")
        for text in texts
    ]
    batch = prompt.collate(encoded, None, keys=texts, pad_id=tokenizer.pad_token_id, side="left")
    return generate(trained.model, batch, tokenizer=tokenizer, decoding=greedy(8, stop="\n"))


def relative_distance(image_BQE: torch.Tensor, other_BQE: torch.Tensor) -> float:
    return float((image_BQE - other_BQE).norm() / other_BQE.norm())


@pytest.fixture(scope="module")
def exact():
    trained = nano()
    return answers(trained), trained.model.encode_images(pictures())


def pictures() -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * 3 * 64 * 64).mul(40).sin().reshape(2, 3, 64, 64)


@pytest.mark.parametrize(("bits", "agree", "apart"), [(8, 0.95, 0.05), (4, 0.85, 0.25)])
def test_few_answers_change_with_weights_of_few_bits(exact, bits, agree, apart):
    trained = nano()
    quantize(trained.model, bits, "cpu")
    same = [one == other for one, other in zip(answers(trained), exact[0], strict=True)]
    assert sum(same) / NUM_QUESTIONS >= agree
    assert 0 < relative_distance(trained.model.encode_images(pictures()), exact[1]) < apart


def test_weights_take_8_or_4_bits_and_what_was_trained_stays():
    """4 bit has a scale of 8 bit for each 64 weights, and 256 of these scales share one of 32 bit."""
    model = nano().model
    linears = large_linears(model)
    # 4 layers of the tower with 4 Linears each, and 4 of the language model.
    assert len(linears) == 32
    weights = sum(linear.weight.numel() for linear in linears.values())
    kept = {name: value for name, value in model.state_dict().items() if name.rpartition(".")[0] not in linears}
    sizes = {}
    for bits in (8, 4):
        low = nano().model
        quantize(low, bits, "cpu")
        sizes[bits] = sum(low.get_submodule(name).weight.nbytes for name in linears)
        assert all(torch.equal(low.state_dict()[name], value) for name, value in kept.items())
    assert sizes == {8: weights, 4: weights / 2}


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_that_is_quantized_while_it_is_read_is_the_same(tmp_path, bits):
    stage = NANO_STAGE2
    model = load_fresh(SHIPPED / "nano", stage, "cpu").model
    save_checkpoint(tmp_path, Checkpoint(form=form_of(stage), tensors=trainable_parameters(model)))
    after = load_trained(SHIPPED / "nano", tmp_path, "float32", "cpu")
    quantize(after.model, bits, "cpu")
    read = load_trained(SHIPPED / "nano", tmp_path, "float32", "cpu", bits)
    one, other = after.model.state_dict(), read.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one if isinstance(one[name], torch.Tensor))
    assert torch.equal(after.model.encode_images(pictures()), read.model.encode_images(pictures()))
    assert answers(read) == answers(after)


def test_no_two_weights_are_there_as_they_were_while_a_model_is_read():
    """Each is given up before the next is read."""
    lower, seen, most = lowering(4, "cpu"), [], 0

    def watched(name, linear):
        nonlocal most
        seen.append(weakref.ref(linear))
        most = max(most, sum(reference() is not None for reference in seen))
        return lower(name, linear)

    loaded = load_backbones(SHIPPED / "nano", torch.float32, watched)
    kept = [reference() for reference in seen if reference() is not None]
    assert kept == [loaded.llm.lm_head] and len(seen) == 33 and most <= 2


def test_a_16_bit_model_computes_in_16_bit():
    model = load_fresh(SHIPPED / "nano", NANO_STAGE2, "cpu").model.bfloat16()
    quantize(model, 4, "cpu")
    given = model.llm.model.layers[0].mlp.fc1(torch.zeros(1, 1, model.llm.config.hidden_size))
    assert given.dtype == torch.bfloat16


def test_without_the_library_it_is_said_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'tinygptv\[low-resource\]'"):
        quantize(nano().model, 8, "cpu")
