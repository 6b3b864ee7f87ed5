from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch

from tests.core.reference import GOLDENS
from tinygptv_core.image import MEAN, STANDARD_DEVIATION
from tinygptv_core.vision import VisionTower, normalised


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    return GOLDENS.backbones().vision


def test_the_last_norm_has_blip2s_eps_and_the_others_the_towers(tower):
    assert tower.tower.post_layernorm.eps == 1e-5
    assert tower.tower.encoder.layers[0].layer_norm1.eps == 1e-6


def test_a_smaller_picture_is_given_interpolated_positions_not_the_first_ones(tower):
    image_B3HW = torch.zeros(1, 3, 14, 14)
    cut_BND = tower.tower(pixel_values=image_B3HW, interpolate_pos_encoding=False).last_hidden_state
    assert tower(image_B3HW).shape == cut_BND.shape == (1, 2, 64)
    assert not torch.allclose(tower(image_B3HW), cut_BND, atol=1e-3)


def test_a_byte_is_divided_by_255_then_normalised_by_channel():
    red_B3HW = torch.tensor([255, 0, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert normalised(red_B3HW).dtype == torch.float32
    assert normalised(red_B3HW).flatten().tolist() == pytest.approx(
        [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711], abs=1e-6
    )


def test_every_byte_has_the_bits_of_numpys_own_arithmetic():
    bytes_B3HW = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 3, 1, 1))
    mean, deviation = MEAN.reshape(3, 1, 1), STANDARD_DEVIATION.reshape(3, 1, 1)
    wanted_B3HW = (bytes_B3HW.astype(np.float32) / 255 - mean) / deviation
    assert np.array_equal(normalised(torch.from_numpy(bytes_B3HW)).numpy(), wanted_B3HW)


def test_bytes_are_normalised_before_the_tower_sees_them(tower):
    """However they lie in memory: the loader's channels lie next to each other."""
    bytes_BHW3 = torch.arange(2 * 28 * 28 * 3).remainder(251).to(torch.uint8).reshape(2, 28, 28, 3)
    images_B3HW = bytes_BHW3.permute(0, 3, 1, 2)
    assert torch.equal(tower(images_B3HW), tower(normalised(images_B3HW.contiguous())))


@contextmanager
def pictures_per_call(tower: VisionTower) -> Iterator[list[int]]:
    """How many pictures the tower is given each time."""
    given: list[int] = []
    with tower.tower.register_forward_pre_hook(
        lambda _, args, named: given.append(len(named["pixel_values"])), with_kwargs=True
    ):
        yield given


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize(
    ("fitting", "pieces"), [(0.5, [1] * 5), (1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (5, [5]), (1000, [5])]
)
def test_a_cpu_looks_at_a_few_of_five_pictures_at_once_and_sees_the_same(tower, monkeypatch, dtype, fitting, pieces):
    images_B3HW = torch.randint(0, 256, (5, 3, 28, 28), generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted_BND, tokens = tower.encode(images_B3HW), 5
    numbers = fitting * tokens * tower.config.intermediate_size
    monkeypatch.setattr("tinygptv_core.vision.NUMBERS_AT_ONCE", numbers)
    with pictures_per_call(tower) as found:
        torch.testing.assert_close(tower(images_B3HW), wanted_BND, rtol=0, atol=1e-5)
    assert found == pieces


def test_another_device_looks_at_all_pictures_at_once(tower, monkeypatch):
    elsewhere = deepcopy(tower).to("meta")
    monkeypatch.setattr("tinygptv_core.vision.NUMBERS_AT_ONCE", 1)
    with pictures_per_call(elsewhere) as found:
        assert elsewhere(torch.zeros(5, 3, 28, 28, device="meta")).shape == (5, 5, 64)
    assert found == [5]


def test_it_is_frozen_and_stays_in_eval_mode(tower):
    assert not tower.train().training
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize(("height", "width"), [(28, 42), (30, 30)])
def test_a_picture_that_the_patches_do_not_cover_is_refused(tower, height, width):
    with pytest.raises(ValueError, match=rf"{height} x {width} px; the tower takes squares .* multiple of 14"):
        tower(torch.zeros(1, 3, height, width))
