from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from tests.core import tiny
from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.engine import micro_batches
from tinygptv_core.model import TinyGPTV
from tinygptv_core.packing import attend_apart, pack
from tinygptv_core.stage import Lora
from tinygptv_core.trainable import trainable_parameters

LENGTHS = (9, 2, 5, 12)


@pytest.fixture(params=["sdpa", "eager"])
def model(request) -> TinyGPTV:
    """With adapters that do something, since theirs are the gradients that matter."""
    made = TinyGPTV.from_backbones(tiny.backbones(seed=1), Lora(rank=2, alpha=4, dropout=0.0), seed=2).eval()
    made.llm.set_attn_implementation(request.param)
    with torch.no_grad():
        for name, parameter in trainable_parameters(made).items():
            if ".lora_B." in name:
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).sin().reshape(parameter.shape))
    return made


def ragged(*, holes: bool) -> Batch:
    """Four samples of `LENGTHS` tokens, every third one a target; with holes, where the fifth token is unseen."""
    T = max(LENGTHS)
    ids_BT, labels_BT = torch.zeros(4, T, dtype=torch.long), torch.full((4, T), IGNORED)
    mask_BT = torch.zeros(4, T, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        ids_BT[row, :length] = torch.arange(length) % 6 + 2
        labels_BT[row, 1:length:3] = ids_BT[row, 1:length:3]
        mask_BT[row, :length] = True
        if holes and length > 5:
            mask_BT[row, 4] = False
    images_B3HW = torch.linspace(-1, 1, 4 * 3 * 8 * 8).sin().mul(3).reshape(4, 3, 8, 8)
    return Batch(
        images_B3HW=images_B3HW,
        ids_BT=ids_BT,
        labels_BT=labels_BT,
        mask_BT=mask_BT,
        slot_B=torch.zeros(4).long(),
        keys=tuple("abcd"),
    )


def loss_and_gradients(model: TinyGPTV, batch: Batch, *, packed: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_sum, num_targets = model(batch, packed=packed)
    loss_sum.backward()
    found = {name: item.grad.clone() for name, item in trainable_parameters(model).items() if item.grad is not None}
    return found | {"loss": loss_sum.detach(), "targets": num_targets}


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("has_image", [False, True])
def test_a_packed_batch_has_the_loss_and_the_gradients_of_the_padded_one(model, holes, has_image):
    batch = ragged(holes=holes)
    batch = batch if has_image else replace(batch, images_B3HW=None, slot_B=None)
    padded, packed = (loss_and_gradients(model, batch, packed=way) for way in (False, True))
    assert padded.keys() == packed.keys()
    assert ("projections.llama_proj.weight" in padded) == has_image
    assert padded["targets"] == packed["targets"] == 3 + 1 + 2 + 4
    for name, expected in padded.items():
        torch.testing.assert_close(
            packed[name], expected, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(float(padded[name].abs().max()) for name in padded if ".lora_A." in name) > 0.1


@pytest.mark.parametrize("row", [1, 3])
def test_a_packed_batch_of_one_sample_has_the_loss_and_the_gradients_of_the_padded_one(model, row):
    """Two tokens in a row of twelve; and twelve with a hole, where the hole alone is left out."""
    sample = micro_batches(ragged(holes=True), 1)[row]
    padded, packed = (loss_and_gradients(model, sample, packed=way) for way in (False, True))
    assert padded.keys() == packed.keys()
    assert padded["targets"] == packed["targets"] == {1: 1, 3: 4}[row]
    for name, expected in padded.items():
        torch.testing.assert_close(packed[name], expected, atol=1e-5, rtol=1e-5)


def test_a_packed_sample_does_not_see_the_one_before_it(model):
    """Another first sample leaves the hidden states of the second as they are, and its own changed."""
    one, other = (torch.tensor([ids]) for ids in ([2, 3, 4, 5, 6], [7, 6, 4, 5, 6]))
    mask_BS = torch.ones(1, 5, dtype=torch.long)
    two = pack(torch.tensor([[True, True, False], [True, True, True]]))

    def hidden(ids_1P: torch.Tensor) -> torch.Tensor:
        positions = torch.tensor([[0, 1, 0, 1, 2]])
        given = {"attention_mask": mask_BS, "position_ids": positions, "packing": two, "use_cache": False}
        return model.llm.model(input_ids=ids_1P, **given).last_hidden_state[0]

    torch.testing.assert_close(hidden(one)[2:], hidden(other)[2:], atol=0, rtol=0)
    assert (hidden(one)[:2] - hidden(other)[:2]).abs().max() > 0.1


def test_the_packing_of_two_rows_one_of_them_with_a_hole():
    packing = pack(torch.tensor([[True, True, False, False], [True, False, True, True]]))
    assert packing.source_P.tolist() == [0, 1, 4, 6, 7]
    assert packing.position_P.tolist() == [0, 1, 0, 2, 3]
    assert packing.lengths == (2, 3)
    assert packing.starts is not None and packing.starts.tolist() == [0, 2, 5]
    assert packing.longest == 3
    assert packing.take(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])).tolist() == [1, 2, 5, 7, 8]


def test_attention_within_a_sample_is_causal():
    """With queries and keys of zero each position gets the mean of the values up to it."""
    two = pack(torch.ones(2, 2, dtype=torch.bool))
    zeros_1NPH, values_1NPH = torch.zeros(1, 1, 4, 1), torch.tensor([2.0, 4.0, 10.0, 30.0]).reshape(1, 1, 4, 1)
    attended_1PNH = attend_apart(zeros_1NPH, zeros_1NPH, values_1NPH, two, dropout=0.0, scaling=1.0)
    assert attended_1PNH.flatten().tolist() == pytest.approx([2, 3, 10, 20])


def test_a_target_after_a_hole_cannot_be_packed(model):
    batch = ragged(holes=True)
    batch.labels_BT[0, 5] = 2
    with pytest.raises(ValueError, match="a target follows a position that is not attended to"):
        model(replace(batch, images_B3HW=None, slot_B=None), packed=True)


def by_starts(query_PNH, key_PNH, value_PNH, starts, starts_again, longest, longest_again, *, scale, window_size):
    """What a GPU's kernel does with what it is given, as torch documents it."""
    assert (starts.dtype, starts_again is starts, longest == longest_again) == (torch.int32, True, True)
    assert window_size == (-1, 0)
    found = torch.empty_like(query_PNH)
    for begin, end in pairwise(starts.tolist()):
        assert end - begin <= longest
        sample = (part[begin:end].transpose(0, 1) for part in (query_PNH, key_PNH, value_PNH))
        found[begin:end] = functional.scaled_dot_product_attention(*sample, is_causal=True, scale=scale).transpose(0, 1)
    return found


def test_the_kernel_of_a_gpu_is_given_the_same_samples(monkeypatch):
    """It takes 16 bits and heads as wide as a multiple of 8; all else goes one by one, and so does all on a CPU."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_starts)
    three = pack(torch.arange(5) < torch.tensor([[5], [1], [3]]))
    parts = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    attended = {
        name: attend_apart(*parts.to(dtype), packing, dropout=0.0, scaling=0.3)
        for name, dtype, packing in [
            ("at once", torch.bfloat16, three),
            ("one by one", torch.bfloat16, three.on(torch.device("cpu"))),
            ("float32", torch.float32, three),
        ]
    }
    assert attended["at once"].shape == (1, 9, 2, 8)
    torch.testing.assert_close(attended["at once"], attended["one by one"], atol=1e-2, rtol=2e-2)
    torch.testing.assert_close(attended["at once"].float(), attended["float32"], atol=0.05, rtol=0.05)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", None)
    with pytest.raises(TypeError):  # so it was asked
        attend_apart(*parts.bfloat16(), three, dropout=0.0, scaling=0.3)
    attend_apart(*parts.bfloat16(), three, dropout=0.1, scaling=0.3)
    attend_apart(*parts.bfloat16()[..., :7], three, dropout=0.0, scaling=0.3)
