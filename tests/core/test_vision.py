import pytest
import torch

from tests.core import reference
from tinygptv_core.vision import VisionTower


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    return reference.backbones().vision


def test_all_tokens_are_the_references_at_another_size_than_the_towers(tower):
    """42 px at a tower of 28 px with patches of 14: 3 x 3 patches and the class token, positions interpolated."""
    case = reference.golden("cases/vision_42")
    vision_BND = tower(case["pixel_values"])
    assert vision_BND.shape == (2, 10, 64)
    torch.testing.assert_close(vision_BND, case["ln_vision"], atol=2e-5, rtol=0)


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
