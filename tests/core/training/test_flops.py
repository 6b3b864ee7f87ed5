"""Needed operations, by hand and against those that torch counts while it computes."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.core import tiny
from tinygptv_core.engine import micro_batches
from tinygptv_core.formats.architectures import PAPER, architecture, sizes_of
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prompt import Encoded, collate, with_slot_at_end
from tinygptv_core.sizes import PAPER_SIZES
from tinygptv_core.stage import Lora
from tinygptv_core.training.flops import (
    NO_WORK,
    Flops,
    Work,
    llm_flops,
    needed_flops,
    peak_flops,
    projection_flops,
    vision_flops,
    work_of,
)

LORA = Lora(rank=2, alpha=4, dropout=0.0)


def sample(*, tokens: int, targets: int, pictures: int) -> Work:
    """One sample that ends with its targets: its last token is predicted from all but itself, and read by none."""
    seen = range(1, tokens)
    return Work(
        pictures=pictures,
        projected=pictures,
        positions=tokens - 1,
        pairs=sum(seen),
        targets=targets,
        target_pairs=sum(seen[-targets:]),
    )


def test_a_picture_takes_the_paper_tower_half_a_trillion_operations():
    """2 x 257 tokens x 984,023,040 weights; 4 x 257^2 x 1408 of attention in 39 layers; 256 patches of 588 numbers."""
    assert vision_flops(PAPER_SIZES, 1, 224).backward == 0
    tower = 2 * 257 * 984_023_040 + 39 * 4 * 257**2 * 1408 + 2 * 256 * 588 * 1408
    assert tower == 520_719_260_160
    # Q-Former: 12 layers of 32 queries, 6 of which read the 257 tokens, of width 1408.
    own = 2 * 32 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 32**2 * 768
    reading = 2 * 32 * 2 * 768**2 + 2 * 257 * 2 * 1408 * 768 + 4 * 32 * 257 * 768
    assert vision_flops(PAPER_SIZES, 3, 224).forward == 3 * (tower + 12 * own + 6 * reading)


def test_a_caption_of_16_tokens_with_its_picture_at_the_papers_size():
    """BOS, 32 tokens of the picture and 15 of 16 targets: 48 positions; the last of 32 layers ends with 16 of them."""
    work = Work(pictures=0, projected=1, positions=48, pairs=24 * 49, targets=16, target_pairs=sum(range(33, 49)))
    layer = 4 * 2560**2 + 2 * 2560 * 10_240
    last = 2 * 2560**2 * 48 + (layer - 2 * 2560**2) * 16
    linear = 2 * (31 * 48 * layer + last)
    attention = 4 * 2560 * (31 * 24 * 49 + 648)
    logits = 2 * 16 * 2560 * 51_200
    found = llm_flops(PAPER_SIZES.llm, work, lora_rank=0)
    assert found == Flops(forward=linear + attention + logits, backward=linear + 2 * attention + logits)
    assert found.total == 484_323_655_680
    projections = projection_flops(PAPER_SIZES, 1)
    assert projections == Flops(
        forward=2 * 32 * (768 * 4096 + 4096 * 2560), backward=2 * 32 * (768 * 4096 + 2 * 4096 * 2560)
    )
    assert needed_flops(PAPER_SIZES, work, image_size=224, lora_rank=0) == found + projections


def test_adapters_cost_three_times_their_forward():
    """Of rank 64: 7 x 2560 x 64 weights a layer, 4 of them in A and B of queries, keys and values, one A for all."""
    work = sample(tokens=49, targets=30, pictures=0)
    bare, adapted = (llm_flops(PAPER_SIZES.llm, work, rank) for rank in (0, 64))
    every, wanted = 3 * 2560 * 64, 3 * 2560 * 64
    forward = 2 * (32 * 48 * every + (31 * 48 + 30) * wanted)
    assert adapted.forward - bare.forward == forward
    assert adapted.total - bare.total == 3 * forward


def model(lora):
    return TinyGPTV.from_backbones(tiny.backbones(seed=1), lora, seed=2)


def counted(tiny_model, batch):
    """What torch counts forward and back; the attention of plain products, since it does not count the other."""
    for config in (tiny_model.vision.tower.config, tiny_model.qformer.qformer.config, tiny_model.llm.config):
        config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as forward:
        loss, _ = tiny_model(batch)
    with FlopCounterMode(display=False) as back:
        loss.backward()
    return Flops(forward=forward.get_total_flops(), backward=back.get_total_flops())


@pytest.mark.parametrize("lora", [None, LORA], ids=["no adapters", "adapters"])
def test_torch_counts_the_same_but_for_what_is_not_needed(lora):
    """One sample of 7 tokens, whose last 3 are targets, so that 6 are read.

    Plain attention computes the whole square, in the last layer too, and its fused projection makes the queries of
    all positions, of which those before targets are needed alone.
    """
    batch = micro_batches(tiny.batch(), most=1)[0]
    tiny_model, rank = model(lora), lora.rank if lora else 0
    work = work_of(batch, queries=3)
    assert work == Work(pictures=1, projected=1, positions=6, pairs=21, targets=3, target_pairs=4 + 5 + 6)
    squares = replace(work, pairs=6**2, target_pairs=6**2)
    needed = needed_flops(sizes_of(tiny_model), squares, image_size=8, lora_rank=rank)
    unread = 2 * (6 - 3) * (16 * 16 + rank * 16)
    unread_back = unread + 2 * (6 - 3) * rank * 16
    found = counted(tiny_model, batch)
    assert found.forward == needed.forward + unread
    assert found.backward == needed.backward + unread_back


def test_padding_and_holes_are_no_work_and_kept_tokens_need_no_tower():
    """7 and 5 tokens, the last of which are not read, and one of the first attended to by none: 5 and 4."""
    batch = tiny.batch()
    mask_BT = batch.mask_BT.clone()
    mask_BT[0, 3] = False
    work = work_of(replace(batch, mask_BT=mask_BT), queries=3)
    assert (work.positions, work.pairs, work.targets) == (5 + 4, 15 + 10, 4)
    assert work.target_pairs == (4 + 5 + 5) + 4
    kept = replace(batch, images_B3HW=None, queries_BQE=torch.zeros(2, 3, 8))
    assert work_of(kept, 3) == replace(work_of(batch, 3), pictures=0)


def test_a_lone_token_is_no_work():
    batch = collate([Encoded(ids=(0,), labels=(-100,), slot=None)], None, keys=("a",), pad_id=0, side="right")
    assert work_of(batch, queries=3) == NO_WORK


def test_a_sample_that_stands_in_for_none_is_no_work():
    """What the loader gives a process for which a batch has no sample left: the first, without targets."""
    batch = tiny.batch()
    assert work_of(replace(batch, labels_BT=torch.full_like(batch.labels_BT, -100)), queries=3) == NO_WORK
    labels_BT = batch.labels_BT.clone()
    labels_BT[1] = -100
    assert work_of(replace(batch, labels_BT=labels_BT), queries=3) == sample(tokens=7, targets=3, pictures=1)


def test_a_batch_asks_for_what_its_samples_ask_for():
    batch = tiny.batch()
    samples = [sample(tokens=tokens, targets=targets, pictures=1) for tokens, targets in ((7, 3), (5, 1))]
    assert sum(samples, NO_WORK) == work_of(batch, queries=3)


def test_text_alone_among_pictures_asks_for_no_picture():
    text = Encoded(ids=(0, 2, 3), labels=(-100, 2, 3), slot=None)
    picture = Encoded(ids=(0, 1, 4), labels=(-100, -100, 4), slot=1)
    batch = collate([with_slot_at_end(text), picture], torch.zeros(2, 3, 8, 8), keys=("a", "b"), pad_id=0, side="right")
    work = work_of(batch, queries=3)
    assert work == sample(tokens=3, targets=2, pictures=0) + sample(tokens=5, targets=1, pictures=1)
    alone = collate([text], None, keys=("a",), pad_id=0, side="right")
    assert work_of(alone, queries=3) == sample(tokens=3, targets=2, pictures=0)


def test_the_sizes_of_a_model_are_those_it_was_made_of():
    assert sizes_of(TinyGPTV.on_meta(PAPER, None)) == PAPER_SIZES
    assert sizes_of(TinyGPTV.on_meta(architecture(sizes_of(model(LORA))), LORA)) == sizes_of(model(None))


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_a_peak_is_that_of_the_named_device(name, peak):
    assert peak_flops(name) == peak


def test_a_plan_can_ask_without_torch():
    program = "import sys, tinygptv_core.training.flops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
