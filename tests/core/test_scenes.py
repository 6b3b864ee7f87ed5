"""Scenes: what is on them, which side of the split they are on, and their pictures."""

import io
from random import Random

import numpy as np
import pytest
from PIL import Image

from tinygptv_core.scenes.draw import draw, jpeg
from tinygptv_core.scenes.scene import COLOURS, SHAPES, UNSEEN, Scene, Thing, draw_scene


def thing(**changed) -> Thing:
    return Thing(
        **{
            "shape": "square",
            "colour": "red",
            "size": "large",
            "cell": 0,
            "shift_right_pixels": 0,
            "shift_down_pixels": 0,
            **changed,
        }
    )


def test_a_box_is_its_cell_s_centre_plus_and_minus_the_radius():
    # The cells' centres lie at 64 / 6 = 10, 32 and 53 pixels.
    assert thing(cell=0).corners == (1, 1, 19, 19)
    assert thing(cell=5, size="small", shift_right_pixels=1, shift_down_pixels=-1).corners == (47, 24, 61, 38)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_touches_all_four_sides_of_its_box_and_nothing_outside_is_painted(shape):
    one = thing(shape=shape, colour="blue", cell=4)
    pixels_HW3 = np.asarray(draw(Scene(background="white", things=(one,)))).astype(int)
    rows, columns = np.nonzero((pixels_HW3 != 250).any(axis=2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == one.corners


def test_the_same_scene_is_the_same_bytes_and_a_picture_of_64_pixels():
    scene = draw_scene(Random(3), "train")
    data = jpeg(draw(scene))
    assert data == jpeg(draw(scene))
    assert Image.open(io.BytesIO(data)).size == (64, 64)


@pytest.mark.parametrize("split", ["train", "held_out", "unseen"])
def test_what_is_drawn_for_a_side_of_the_split_is_on_it(split):
    random = Random(0)
    assert {draw_scene(random, split).split for _ in range(50)} == {split}


def test_no_scene_for_training_is_held_out_whatever_the_seed():
    trained = {draw_scene(Random(seed), "train").content for seed in range(3_000)}
    held_out = {draw_scene(Random(seed), "held_out").content for seed in range(3_000)}
    assert not trained & held_out


def test_a_pixel_s_shift_does_not_move_a_scene_across_the_split():
    scenes = [Scene(background="gray", things=(thing(colour="cyan", shift_down_pixels=shift),)) for shift in (-1, 0, 1)]
    assert len({scene.split for scene in scenes}) == 1


def test_an_unseen_combination_is_on_no_side_but_its_own():
    colour, shape = sorted(UNSEEN)[0]
    scene = Scene(background="gray", things=(thing(cell=2), thing(cell=7, colour=colour, shape=shape)))
    assert scene.split == "unseen"


def test_each_word_of_an_unseen_combination_is_also_met_in_another():
    assert len(UNSEEN) == len(SHAPES) == 4
    assert {shape for _, shape in UNSEEN} == set(SHAPES)
    assert len({colour for colour, _ in UNSEEN} & set(COLOURS)) == 4
