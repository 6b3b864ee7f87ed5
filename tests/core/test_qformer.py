import pytest
import torch

from tests.core.reference import GOLDENS
from tinygptv_core.qformer import QFormer


@pytest.fixture(scope="module")
def qformer() -> QFormer:
    return GOLDENS.backbones().qformer


def test_its_dropout_never_acts(qformer):
    vision_BND = torch.ones(1, 5, qformer.config.encoder_hidden_size)
    assert qformer.config.hidden_dropout_prob == 0.1
    assert torch.equal(qformer.train()(vision_BND), qformer.eval()(vision_BND))


def test_it_is_frozen(qformer):
    assert not any(parameter.requires_grad for parameter in qformer.parameters())
