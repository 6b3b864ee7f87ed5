import pytest
import torch

from tests.core.reference import GOLDENS
from tinygptv_core.vision import VisionTower


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


def test_it_is_frozen_and_stays_in_eval_mode(tower):
    assert not tower.train().training
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize(("height", "width"), [(28, 42), (30, 30)])
def test_a_picture_that_the_patches_do_not_cover_is_refused(tower, height, width):
    with pytest.raises(ValueError, match=rf"{height} x {width} px; the tower takes squares .* multiple of 14"):
        tower(torch.zeros(1, 3, height, width))
