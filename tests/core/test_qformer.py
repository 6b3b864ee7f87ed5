import pytest
import torch

from tests.core import reference
from tinygptv_core.qformer import QFormer


@pytest.fixture(scope="module")
def qformer() -> QFormer:
    return reference.backbones().qformer


def test_what_the_queries_find_is_what_the_references_find(qformer):
    case = reference.golden("cases/vision_42")
    queries_BQE = qformer(case["ln_vision"])
    assert queries_BQE.shape == (2, 8, 48)
    torch.testing.assert_close(queries_BQE, case["qformer"], atol=2e-5, rtol=0)


def test_its_dropout_never_acts(qformer):
    vision_BND = torch.ones(1, 5, 64)
    assert qformer.config.hidden_dropout_prob == 0.1
    assert torch.equal(qformer.train()(vision_BND), qformer.eval()(vision_BND))


def test_it_is_frozen(qformer):
    assert not any(parameter.requires_grad for parameter in qformer.parameters())
