"""Pre-training at toy size: what it may see, what it writes, and that it does so alike every time."""

from pathlib import Path
from random import Random

import pytest
import torch

from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.batch import IGNORED
from tinygptv_core.phi import TinyPhi
from tinygptv_core.pretrain.backbones import pretrain_backbones
from tinygptv_core.pretrain.language import language_config, tokens_of, train_language_model
from tinygptv_core.pretrain.optimize import Muon, optimizers_of, orthogonal, rate
from tinygptv_core.pretrain.reading import Passage, document
from tinygptv_core.pretrain.settings import Optimization, Pretraining, PretrainingSizes
from tinygptv_core.pretrain.tokens import train_tokenizer
from tinygptv_core.pretrain.tower import grid_positions, images_of, labels_of
from tinygptv_core.scenes.scene import UNSEEN, Scene, Thing
from tinygptv_core.weights import load_backbones

STEPS = Optimization(seed=1, steps=2, warmup_steps=1, batch=3, peak=1e-3, weight_decay=0.0)
SETTINGS = Pretraining(
    sizes=PretrainingSizes(
        width=32,
        head_width=16,
        feed_forward=32,
        patch_pixels=16,
        vision_layers=1,
        qformer_layers=1,
        language_layers=1,
        projection=48,
        context=512,
        vocabulary=700,
    ),
    seed=1,
    prompts=("[vqa] <Img><ImageHere></Img>",),
    tower=STEPS,
    language=STEPS,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(700, 1, SETTINGS.prompts)


def test_every_word_of_a_scene_is_one_token_with_and_without_a_space(tokenizer):
    for word in ("red", " red", "bottom", " middle", "zero", " yes"):
        assert len(tokenizer(word).input_ids) == 1, word
    assert tokenizer.tokenize("{<7><42><100><0>}") == ["{<", "7", "><", "42", "><", "100", "><", "0", ">}"]


def test_the_tokenizer_gives_back_what_it_was_given_and_adds_nothing(tokenizer):
    text = "[vqa] what\n colour? caf\u00e9 {<7><42>}###"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 0)


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="in a vocabulary of 300; it must be one token"):
        train_tokenizer(300, 1, ())


def test_no_document_names_an_unseen_combination_or_a_task_word_or_an_image():
    random = Random(4)
    forbidden = [*(f"{colour} {shape}" for colour, shape in UNSEEN), "[vqa]", "[refer]", "<Img>", "ImageHere", "###"]
    for _ in range(1_500):
        passages = document(random)
        text = "".join(passage.text for passage in passages)
        assert not [words for words in forbidden if words in text], text
        assert any(passage.learned for passage in passages)


def test_only_what_is_to_be_said_is_a_target(tokenizer):
    tokens = tokens_of([Passage("red", False), Passage("blue", True)], tokenizer)
    red, blue = tokenizer("red").input_ids[0], tokenizer("blue").input_ids[0]
    assert tokens.ids == [0, red, blue, 0]
    assert tokens.labels == [IGNORED, IGNORED, blue, 0]


def test_labels_say_what_is_in_each_cell():
    shape = Thing(shape="triangle", colour="green", size="large", cell=4, shift_right_pixels=0, shift_down_pixels=1)
    labels = labels_of([Scene(background="black", things=(shape,))])
    assert labels.there_BQ.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0, 0]]
    assert (labels.shape_BQ[0, 4], labels.colour_BQ[0, 4], labels.size_BQ[0, 4]) == (2, 1, 1)
    assert labels.background_BQ.tolist() == [[1] * 9]
    assert (labels.box_BQ4[0, 4] * 64).tolist() == [23, 24, 41, 42]


def test_a_picture_of_a_scene_is_what_every_picture_becomes():
    thing = Thing(shape="square", colour="red", size="small", cell=0, shift_right_pixels=0, shift_down_pixels=0)
    assert images_of([Scene(background="white", things=(thing,))]).shape == (1, 3, 64, 64)


def test_places_on_a_coarse_grid_are_nearest_to_the_same_places_on_a_fine_one():
    coarse, fine = grid_positions(3, 128), grid_positions(9, 128)
    nearest = (coarse @ fine.T).argmax(dim=1)
    assert nearest.tolist() == [10, 13, 16, 37, 40, 43, 64, 67, 70]  # the middle of each block of three by three


def test_the_rate_warms_up_and_falls_to_nothing():
    plan = Optimization(seed=1, steps=100, warmup_steps=10, batch=1, peak=1.0, weight_decay=0.0)
    assert rate(plan, 0) == pytest.approx(0.1)
    assert rate(plan, 50) == pytest.approx(0.5)
    assert rate(plan, 99) < 0.001


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4)])
def test_an_orthogonal_step_goes_about_as_far_in_every_direction(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5 and values.max() < 1.3


def test_hidden_matrices_go_to_muon_and_every_parameter_goes_somewhere():
    llm = TinyPhi(language_config(SETTINGS.sizes))
    muon, adamw = optimizers_of(llm, weight_decay=0.0)
    hidden, others = ([id(p) for group in one.param_groups for p in group["params"]] for one in (muon, adamw))
    assert isinstance(muon, Muon)
    assert sorted(hidden + others) == sorted(id(p) for p in llm.parameters())
    assert id(llm.model.embed_tokens.weight) in others
    assert id(llm.lm_head.weight) in others
    assert id(llm.model.layers[0].mlp.fc1.weight) in hidden


def test_a_language_model_learns_to_read(tokenizer):
    torch.manual_seed(0)
    llm = TinyPhi(language_config(SETTINGS.sizes))
    lines: list[str] = []
    plan = Optimization(seed=1, steps=100, warmup_steps=10, batch=4, peak=5e-3, weight_decay=0.0)
    train_language_model(llm, tokenizer, plan, lines.append)
    assert len(lines) == 1
    assert float(lines[0].rsplit(" ", 1)[1]) < 4.5  # log(700) = 6.55 to begin with
    assert not any(parameter.requires_grad for parameter in llm.parameters())


def test_the_same_settings_write_the_same_bytes_and_they_load(tmp_path: Path):
    digests = set()
    for name, threads in (("one", 1), ("two", 2)):
        torch.set_num_threads(threads)
        torch.manual_seed(threads)
        pretrain_backbones(SETTINGS, tmp_path / name, lambda line: None)
        digests.add(digest_of(members_of(tmp_path / name)))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    assert len(digests) == 1
    backbones = load_backbones(tmp_path / "one", torch.float32)
    assert backbones.projection_widths == (32, 48, 32)
    assert backbones.qformer(backbones.vision(torch.zeros(1, 3, 64, 64))).shape == (1, 9, 32)
