from dataclasses import replace

import pytest
import torch

from tests.core.tiny_run import STAGE, tiny_tokenizer
from tinygptv_core.batch import IGNORED
from tinygptv_core.presets import PAPER, with_settings
from tinygptv_core.prompt import (
    PLACEHOLDER_ID,
    Encoded,
    chat,
    collate,
    encode_choice,
    encode_question,
    encode_training,
    question,
)
from tinygptv_core.recipe import Turn
from tinygptv_core.stage import PHI_QUESTION, PUBLISHED_QUESTION

TOKENIZER = tiny_tokenizer()
BOS = TOKENIZER.bos_token_id
CAPTIONS = replace(STAGE, prompt_template=None)


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def targets(encoded: Encoded) -> str:
    return TOKENIZER.decode([label for label in encoded.labels if label != IGNORED])


def test_a_question_stands_in_its_prompt_and_that_in_the_template_behind_the_picture():
    asked = question("where is it", "[vqa] {}?", "[INST] {} [/INST]", has_image=True)
    assert asked == "[INST] <Img><ImageHere></Img> [vqa] where is it? [/INST]"


def test_without_a_picture_there_is_no_slot():
    assert question("why", "{}", "Q: {} A: ", has_image=False) == "Q: why A: "


def test_a_prompt_without_a_place_for_the_question_is_refused():
    with pytest.raises(ValueError, match=r"the prompt 'answer:' has no \{\}, where 'what\?' is to stand"):
        question("what?", "answer:", "{}", has_image=True)


def test_braces_in_the_words_are_left_alone():
    assert question("{<1><2>} {}", "what is at {}", "Q: {} A: ", has_image=False) == "Q: what is at {<1><2>} {} A: "


def test_a_caption_without_a_template_is_begin_picture_caption_end():
    encoded = encode_training(TOKENIZER, [Turn("assistant", "a cat")], prompt="{}", stage=CAPTIONS, has_image=True)
    assert list(encoded.ids) == [BOS, PLACEHOLDER_ID, *ids("a cat\n")]
    assert list(encoded.labels) == [IGNORED, IGNORED, *ids("a cat\n")]
    assert encoded.slot == 1


def test_a_caption_with_a_template_is_asked_for_by_the_prompt():
    encoded = encode_training(TOKENIZER, [Turn("assistant", "a cat")], prompt="say", stage=STAGE, has_image=True)
    before = [BOS, *ids("Q: <Img>"), PLACEHOLDER_ID, *ids("</Img> say A: ")]
    assert list(encoded.ids) == [*before, *ids("a cat\n")]
    assert list(encoded.labels) == [IGNORED] * len(before) + ids("a cat\n")
    assert encoded.slot == 1 + len("Q: <Img>")


def test_a_sample_begins_as_its_question_alone_does():
    asked = question("where", "tell {}", STAGE.prompt_template or "", has_image=True)
    alone = encode_question(TOKENIZER, asked, has_image=True, dialect="tinygptv")
    turns = [Turn("user", "where"), Turn("assistant", "here")]
    whole = encode_training(TOKENIZER, turns, prompt="tell {}", stage=STAGE, has_image=True)
    assert whole.ids[: len(alone.ids)] == alone.ids
    assert whole.slot == alone.slot


def test_each_later_question_has_its_own_begin_and_only_answers_are_targets():
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")]
    encoded = encode_training(TOKENIZER, turns, prompt="[x] {}", stage=STAGE, has_image=False)
    assert list(encoded.ids) == [BOS, *ids("Q: [x] a A: "), *ids("b\n"), BOS, *ids("Q: c A: "), *ids("d\n")]
    assert targets(encoded) == "b\nd\n"
    assert encoded.slot is None


def test_the_picture_is_shown_once():
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")]
    encoded = encode_training(TOKENIZER, turns, prompt="{}", stage=STAGE, has_image=True)
    assert encoded.ids.count(PLACEHOLDER_ID) - ids("".join(turn.text for turn in turns)).count(PLACEHOLDER_ID) == 1


def test_each_answer_is_cut_on_the_right_with_its_end_symbol():
    turns = [Turn("user", "a"), Turn("assistant", "bcdef"), Turn("user", "g"), Turn("assistant", "h")]
    stage = replace(STAGE, max_tokens=3)
    assert targets(encode_training(TOKENIZER, turns, prompt="{}", stage=stage, has_image=False)) == "bcdh\n"


def test_the_mark_in_a_users_words_is_words():
    encoded = encode_question(
        TOKENIZER, "Q: <Img><ImageHere></Img> <ImageHere>? A: ", has_image=True, dialect="tinygptv"
    )
    assert encoded.slot == 1 + len("Q: <Img>")
    assert list(encoded.ids[encoded.slot + 1 :]) == ids("</Img> <ImageHere>? A: ")


@pytest.mark.parametrize(
    "roles", [(), ("user",), ("user", "user"), ("assistant", "assistant"), ("user", "assistant", "user")]
)
def test_turns_that_do_not_alternate_are_refused(roles):
    with pytest.raises(ValueError, match="must alternate"):
        encode_training(TOKENIZER, [Turn(role, "x") for role in roles], prompt="{}", stage=STAGE, has_image=False)


def test_a_question_where_the_stage_asks_none_is_refused():
    turns = [Turn("user", "why"), Turn("assistant", "so")]
    with pytest.raises(ValueError, match="tiny has no prompt_template, so it cannot ask 'why'"):
        encode_training(TOKENIZER, turns, prompt="{}", stage=CAPTIONS, has_image=True)


def test_a_question_without_a_slot_for_its_picture_is_refused():
    with pytest.raises(ValueError, match="has no <ImageHere> for the picture"):
        encode_question(TOKENIZER, "Q: why A: ", has_image=True, dialect="tinygptv")


SHORT = Encoded(ids=(9, 0, 7), labels=(IGNORED, IGNORED, 7), slot=1)
LONG = Encoded(ids=(9, 8, 0, 6, 5), labels=(IGNORED, IGNORED, IGNORED, 6, 5), slot=2)
IMAGES = torch.zeros(2, 3, 2, 2)


def test_padding_on_the_right_is_neither_attended_to_nor_a_target():
    batch = collate([SHORT, LONG], IMAGES, keys=["a", "b"], pad_id=4, side="right")
    assert batch.ids_BT.tolist() == [[9, 0, 7, 4, 4], [9, 8, 0, 6, 5]]
    assert batch.labels_BT.tolist() == [[IGNORED, IGNORED, 7, IGNORED, IGNORED], [IGNORED] * 3 + [6, 5]]
    assert batch.mask_BT.tolist() == [[True, True, True, False, False], [True] * 5]
    assert batch.slot_B is not None
    assert batch.slot_B.tolist() == [1, 2]
    assert batch.keys == ("a", "b")
    assert batch.images_B3HW is not None
    assert batch.images_B3HW.shape == (2, 3, 2, 2)


def test_padding_on_the_left_moves_the_slot():
    batch = collate([SHORT, LONG], IMAGES, keys=["a", "b"], pad_id=4, side="left")
    assert batch.ids_BT.tolist() == [[4, 4, 9, 0, 7], [9, 8, 0, 6, 5]]
    assert batch.mask_BT.tolist() == [[False, False, True, True, True], [True] * 5]
    assert batch.slot_B is not None
    assert batch.slot_B.tolist() == [3, 2]


def test_a_batch_of_text_has_neither_pictures_nor_slots():
    batch = collate([replace(SHORT, slot=None)], None, keys=["a"], pad_id=4, side="right")
    assert batch.images_B3HW is None
    assert batch.slot_B is None


@pytest.mark.parametrize(
    ("samples", "images"),
    [([SHORT, replace(LONG, slot=None)], IMAGES), ([SHORT], None), ([replace(SHORT, slot=None)], IMAGES[:1])],
)
def test_pictures_and_slots_must_belong_together(samples, images):
    with pytest.raises(ValueError, match="a batch has one for each sample or none"):
        collate(samples, images, keys=["a"] * len(samples), pad_id=4, side="right")


PUBLISHED = replace(STAGE, dialect="published")
TWO = [Turn("user", "a"), Turn("assistant", "bc"), Turn("user", "d"), Turn("assistant", "ef")]


def test_published_the_later_beginnings_are_there_but_nothing_attends_to_them():
    stage, published = replace(STAGE, max_tokens=99), replace(PUBLISHED, max_tokens=99)
    ours = encode_training(TOKENIZER, TWO, prompt="{}", stage=stage, has_image=True)
    theirs = encode_training(TOKENIZER, TWO, prompt="{}", stage=published, has_image=True)
    assert (theirs.ids, theirs.labels, theirs.slot) == (ours.ids, ours.labels, ours.slot)
    later = len(ids("Q: <Img>")) + len(ids("</Img> a A: ")) + len(ids("bc\n")) + 2
    assert (ours.unseen, theirs.unseen) == ((), (later,))
    assert theirs.ids[later] == BOS
    mask_T = collate([theirs], IMAGES[:1], keys=["a"], pad_id=4, side="right").mask_BT[0]
    assert [position for position, is_seen in enumerate(mask_T.tolist()) if not is_seen] == [later]


def test_unseen_positions_move_with_padding_on_the_left():
    hidden = replace(SHORT, unseen=(1,))
    batch = collate([hidden, LONG], IMAGES, keys=["a", "b"], pad_id=4, side="left")
    assert batch.mask_BT.tolist() == [[False, False, True, False, True], [True] * 5]


@pytest.mark.parametrize(
    ("max_tokens", "expected"), [(2, "bc"), (3, "bc\n"), (4, "bc\n"), (13, "bc\ne"), (99, "bc\nef\n")]
)
def test_published_all_that_follows_the_first_question_is_cut_together(max_tokens, expected):
    """`bc` and its end are three tokens, the next question with its beginning nine."""
    stage = replace(PUBLISHED, max_tokens=max_tokens)
    encoded = encode_training(TOKENIZER, TWO, prompt="{}", stage=stage, has_image=False)
    assert targets(encoded) == expected
    assert len(encoded.ids) <= 1 + len("Q: a A: ") + max_tokens
    assert all(position < len(encoded.ids) for position in encoded.unseen)


def test_published_a_question_to_be_answered_has_no_beginning():
    asked = question("where", "{}", "Q: {} A: ", has_image=True)
    ours = encode_question(TOKENIZER, asked, has_image=True, dialect="tinygptv")
    published = encode_question(TOKENIZER, asked, has_image=True, dialect="published")
    assert published.ids == ours.ids[1:]
    assert published.slot == len("Q: <Img>")
    assert len(published.labels) == len(published.ids)


def test_a_stage_is_asked_in_its_own_template_but_published_in_that_of_evaluation():
    asked = [stage.asks for stage in (STAGE, CAPTIONS, replace(PUBLISHED, eval_template="#{}"))]
    assert asked == [STAGE.prompt_template, CAPTIONS.eval_template, "#{}"]


def test_what_was_trained_in_the_published_dialect_is_not_asked_in_phis_own_words():
    stage = next(one for one in with_settings(PAPER, ["stage4.dialect=published"]).stages if one.name == "stage4")
    assert stage.eval_template == PHI_QUESTION and stage.asks == PUBLISHED_QUESTION


def test_a_chat_shows_the_picture_in_its_first_question():
    turns = [Turn("user", "what"), Turn("assistant", "a cat."), Turn("user", "{}?")]
    assert chat("Be kind. ", turns, "#Q {}#A ", has_image=True) == (
        "Be kind. #Q <Img><ImageHere></Img> what#A a cat.#Q {}?#A "
    )


def test_a_choice_is_its_question_and_itself():
    choice = encode_choice(TOKENIZER, "Q: <Img><ImageHere></Img> A: ", "no", end_symbol="\n", has_image=True)
    before = encode_question(TOKENIZER, "Q: <Img><ImageHere></Img> A: ", has_image=True, dialect="tinygptv")
    assert list(choice.ids) == [*before.ids, *ids("no\n")]
    assert targets(choice) == "no\n"
    assert choice.slot == before.slot
