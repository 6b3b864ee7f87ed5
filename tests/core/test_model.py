from dataclasses import replace

import pytest
import torch

from benchmarks.measure import saved_bytes
from tests.core import tiny
from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.engine import micro_batches
from tinygptv_core.model import TinyGPTV
from tinygptv_core.stage import Lora
from tinygptv_core.trainable import trainable_parameters

LORA = Lora(rank=2, alpha=4, dropout=0.0)


@pytest.fixture
def model() -> TinyGPTV:
    return TinyGPTV.from_backbones(tiny.backbones(seed=1), None, seed=2).eval()


def text_batch() -> Batch:
    return replace(tiny.batch(), images_B3HW=None, slot_B=None)


def test_the_loss_is_a_sum_so_the_parts_of_a_batch_add_up(model):
    batch = tiny.batch()
    rows = micro_batches(batch, 1)
    losses, counts = zip(*(model(row) for row in rows), strict=True)
    loss_sum, num_targets = model(batch)
    assert [count.item() for count in counts] == [3, 1]
    assert num_targets.item() == 4
    assert loss_sum.item() == pytest.approx(sum(losses).item(), abs=1e-5)


def test_queries_that_are_known_stand_for_the_pictures(model):
    batch = tiny.batch()
    queries_BQE = model.encode_images(batch.images_B3HW)
    assert torch.equal(model(replace(batch, images_B3HW=None, queries_BQE=queries_BQE))[0], model(batch)[0])


def test_the_picture_bears_on_the_loss(model):
    batch = tiny.batch()
    other = replace(batch, images_B3HW=batch.images_B3HW.flip(0))
    assert abs(model(other)[0].item() - model(batch)[0].item()) > 1e-3


def test_text_alone_is_plain_language_modelling(model):
    """Three targets in one row and one in the other; the loss is the LLM's own."""
    batch = text_batch()
    loss_sum, num_targets = model(batch)
    own = model.llm(input_ids=batch.ids_BT, attention_mask=batch.mask_BT.long(), labels=batch.labels_BT).loss
    assert num_targets.item() == 4
    assert loss_sum.item() / 4 == pytest.approx(own.item(), abs=1e-5)


def test_a_longer_prompt_keeps_as_much_for_the_gradient_whatever_the_vocabulary():
    """Logits are computed where there are targets alone."""

    def saved(vocabulary: int, prompt_tokens: int, precision: torch.dtype = torch.float32) -> int:
        made = TinyGPTV.from_backbones(tiny.backbones(seed=1), LORA, seed=2).eval()
        made.llm.lm_head = torch.nn.Linear(16, vocabulary).requires_grad_(False)
        batch = tiny.batch()
        ids_BT = torch.cat([batch.ids_BT[:, :2], torch.full((2, prompt_tokens), 2), batch.ids_BT[:, 2:]], dim=1)
        labels_BT = torch.cat([torch.full((2, prompt_tokens), IGNORED), batch.labels_BT], dim=1)
        longer = replace(batch, ids_BT=ids_BT, labels_BT=labels_BT, mask_BT=torch.ones_like(ids_BT, dtype=torch.bool))
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            return saved_bytes(lambda: made(longer), made)

    small, large = ([saved(vocabulary, tokens) for tokens in (10, 90)] for vocabulary in (8, 5000))
    assert large[0] - small[0] == large[1] - small[1] > 4 * 4 * 4900  # four targets, float32
    assert large[1] - large[0] == small[1] - small[0] > 0
    narrow, wide = (saved(vocabulary, 10, torch.bfloat16) for vocabulary in (8000, 16000))
    assert wide - narrow == 2 * 8000 * (4 + 16)  # in 16 bit four logits, and the head's weight as autocast makes it


def test_a_batch_without_targets_has_a_loss_of_nothing(model):
    batch = tiny.batch()
    loss_sum, num_targets = model(replace(batch, labels_BT=torch.full_like(batch.labels_BT, IGNORED)))
    assert (loss_sum.item(), num_targets.item()) == (0.0, 0)


def test_pictures_without_slots_and_slots_without_pictures_are_refused(model):
    with pytest.raises(ValueError, match=r"000000000.* has pictures only"):
        model(replace(tiny.batch(), slot_B=None))
    with pytest.raises(ValueError, match=r"000000000.* has slots only"):
        model(replace(tiny.batch(), images_B3HW=None))


def test_fresh_projections_depend_on_the_seed_alone():
    def projections(lora: Lora | None, seed: int, torch_seed: int) -> torch.Tensor:
        torch.manual_seed(torch_seed)
        made = TinyGPTV.from_backbones(tiny.backbones(seed=1), lora, seed)
        return torch.cat([parameter.flatten() for parameter in made.projections.parameters()])

    first = projections(None, seed=2, torch_seed=0)
    assert torch.equal(first, projections(LORA, seed=2, torch_seed=1))
    assert not torch.equal(first, projections(None, seed=3, torch_seed=0))
    assert first.abs().max() <= 8**-0.5


def test_fresh_adapters_change_nothing_and_depend_on_the_seed_alone():
    batch = tiny.batch()
    plain = TinyGPTV.from_backbones(tiny.backbones(seed=1), None, seed=2).eval()
    made = [TinyGPTV.from_backbones(tiny.backbones(seed=1), LORA, seed=2).eval() for _ in range(2)]
    torch.testing.assert_close(made[0](batch)[0], plain(batch)[0])
    for name, parameter in trainable_parameters(made[0]).items():
        assert torch.equal(parameter, trainable_parameters(made[1])[name]), name


def test_adapters_are_on_attention_blocks_of_the_llm_alone():
    made = TinyGPTV.from_backbones(tiny.backbones(seed=1), LORA, seed=2)
    wrapped = {name.rpartition(".lora_A")[0] for name, _ in made.named_modules() if name.endswith(".lora_A")}
    assert wrapped == {
        f"llm.model.layers.{layer}.self_attn.{linear}" for layer in (0, 1) for linear in ("query_key_value", "dense")
    }


def test_adapters_of_a_16_bit_llm_are_float32_and_the_model_works_under_autocast():
    backbones = tiny.backbones(seed=1)
    backbones.llm.to(torch.bfloat16)
    made = TinyGPTV.from_backbones(backbones, LORA, seed=2)
    adapters = [item for name, item in trainable_parameters(made).items() if ".lora_" in name]
    assert {item.dtype for item in adapters} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        loss_sum, _ = made(tiny.batch())
    assert loss_sum.dtype == torch.float32
    assert loss_sum.isfinite()
