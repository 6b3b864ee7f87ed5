"""What is said and asked about scenes, on one scene that can be read at a glance, and on many drawn ones."""

from collections import Counter
from random import Random

import pytest

from tinygptv_core.scenes import texts
from tinygptv_core.scenes.scene import UNSEEN, Scene, Thing, draw_scene


def thing(shape: str, colour: str, size: str, cell: int) -> Thing:
    return Thing(shape=shape, colour=colour, size=size, cell=cell, shift_right_pixels=0, shift_down_pixels=0)


CIRCLE = thing("circle", "red", "large", 0)
CROSS = thing("cross", "orange", "small", 5)
SCENE = Scene(background="white", things=(CIRCLE, CROSS))
TWINS = Scene(background="black", things=(thing("cross", "pink", "small", 1), thing("cross", "pink", "small", 2)))


def test_captions_say_the_same_in_several_wordings():
    assert {texts.caption(Random(seed), SCENE) for seed in range(30)} == {
        "a large red circle in the top left and a small orange cross in the middle right on a white background",
        "large red circle top left, small orange cross middle right, white background",
        "white background, top left large red circle, middle right small orange cross",
        "a picture of a red circle and an orange cross on white",
    }


def test_a_detailed_caption_counts_places_and_relates():
    assert texts.detailed_caption(SCENE) == (
        "There are two shapes on a white background. In the top left there is a large red circle. "
        "In the middle right there is a small orange cross. The circle is above the cross."
    )


def test_a_grounded_caption_has_a_box_in_truncated_hundredths_behind_each_phrase():
    # The circle's corners are 1 and 19 of 64 pixels: 1.56 and 29.69 hundredths.
    assert texts.grounded_caption(SCENE) == (
        "<p>large red circle</p> {<1><1><29><29>}, <p>small orange cross</p> {<71><39><93><60>}"
    )


@pytest.mark.parametrize(
    ("group", "pairs"),
    [
        ("count", {("how many shapes are there?", "two"), ("how many small shapes are there?", "one")}),
        ("background", {("what colour is the background?", "white")}),
        ("colour", {("what colour is the cross?", "orange"), ("what colour is the shape in the top left?", "red")}),
        ("shape", {("what is the red shape?", "circle"), ("what shape is in the middle right?", "cross")}),
        ("where", {("where is the orange cross?", "middle right"), ("where is the circle?", "top left")}),
        ("size", {("what size is the red circle?", "large"), ("is the cross small or large?", "small")}),
        ("exists", {("is there a red circle?", "yes"), ("can you see a red square?", "no")}),
    ],
)
def test_questions_of_a_type_have_the_answers_that_one_sees(group, pairs):
    asked = [texts.question(Random(seed), SCENE, {group: 1.0}) for seed in range(600)]
    assert {question.group for question in asked} == {group}
    assert pairs <= {(question.text, question.answer) for question in asked}
    assert len({question.text for question in asked}) == len({(q.text, q.answer) for q in asked})


def test_what_cannot_be_told_apart_is_not_referred_to():
    assert texts.referred(Random(0), TWINS) is None
    questions = [texts.question(Random(seed), TWINS, {"where": 1.0, "background": 0.1}) for seed in range(20)]
    assert {question.answer for question in questions} == {"black"}


def test_a_reference_means_one_thing():
    pair = Scene(background="gray", things=(CIRCLE, thing("circle", "blue", "large", 3)))
    found = {texts.referred(Random(seed), pair) for seed in range(60)}
    assert {words for _, words in filter(None, found)} == {
        "red shape",
        "red circle",
        "large red circle",
        "blue shape",
        "blue circle",
        "large blue circle",
    }


def test_no_training_text_names_an_unseen_combination():
    random = Random(5)
    forbidden = [f"{colour} {shape}" for colour, shape in UNSEEN]
    for _ in range(2_000):
        scene = draw_scene(random, "train")
        asked = texts.question(random, scene, {"exists": 1.0})
        said = " | ".join((texts.caption(random, scene), texts.detailed_caption(scene), asked.text))
        assert not [words for words in forbidden if words in said]


def test_questions_about_an_unseen_scene_are_about_the_unseen_thing():
    unseen = thing("cross", "yellow", "small", 8)
    scene = Scene(background="white", things=(CIRCLE, unseen))
    assert scene.split == "unseen"
    asked = [texts.question(Random(seed), scene, {"where": 1.0, "colour": 1.0}) for seed in range(60)]
    assert {question.answer for question in asked} == {"bottom right", "yellow"}
    assert {found[0] for seed in range(20) if (found := texts.referred(Random(seed), scene))} == {unseen}


def test_the_commonest_answer_of_each_type_answers_less_than_a_third():
    random = Random(1)
    asked = [texts.question(random, draw_scene(random, "train"), texts.GROUP_WEIGHTS) for _ in range(3_000)]
    commonest = {
        group: Counter(q.answer for q in asked if q.group == group).most_common(1)[0][1]
        for group in texts.GROUP_WEIGHTS
    }
    assert sum(commonest.values()) / len(asked) < 0.3


def test_a_dialogue_asks_nothing_twice():
    for seed in range(50):
        asked = [question.text for question in texts.dialogue(Random(seed), SCENE)]
        assert len(asked) == len(set(asked)) in (2, 3)


def test_text_alone_holds_the_scene_and_the_question():
    asked = texts.text_question(Random(2), SCENE)
    assert asked.text.startswith(
        "a large red circle in the top left and a small orange cross in the middle right on a "
    )
    assert asked.text.endswith("?")
