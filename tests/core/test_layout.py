from dataclasses import replace

import torch

from tests.core import tiny
from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.layout import with_layout


def layout(batch: Batch, *, packed: bool):
    found = with_layout(batch, 3, packed=packed).layout
    assert found is not None
    return found


def test_each_target_is_predicted_by_the_position_before_it_with_the_picture_in_place():
    """Begin, three tokens of the picture, then the caption: places 0, 1 to 3, and 4 on."""
    found = layout(tiny.batch(), packed=False)
    assert (found.row_K.tolist(), found.position_K.tolist()) == ([0, 0, 0, 1], [3, 4, 5, 3])
    assert found.labels_K.tolist() == [2, 3, 4, 5]
    assert not found.is_full
    assert found.packing is found.place_K is None


def test_in_the_packed_row_the_second_sample_begins_where_the_first_ends():
    found = layout(tiny.batch(), packed=True)
    assert found.packing is not None
    assert found.packing.lengths == (6, 4)
    assert found.place_K is not None
    assert found.place_K.tolist() == [3, 4, 5, 6 + 3]
    assert found.position_K.tolist() == [3, 4, 5, 3]


def test_what_stands_behind_the_last_position_that_predicts_is_left_out():
    """7 and 5 tokens, the last of which is a target and predicts nothing; a sample without targets is left whole."""
    batch = tiny.batch()
    assert layout(batch, packed=False).length == 6
    labels_BT = batch.labels_BT.clone()
    labels_BT[1] = IGNORED
    packing = layout(replace(batch, labels_BT=labels_BT), packed=True).packing
    assert packing is not None
    assert packing.lengths == (6, 5)
    assert packing.position_P.tolist() == [*range(6), *range(5)]
    labels_BT[:, 3:] = IGNORED
    assert layout(replace(batch, labels_BT=labels_BT), packed=False).length == 7


def test_a_batch_is_full_where_all_that_is_read_is_attended_to():
    batch = tiny.batch()
    labels_BT = batch.labels_BT.clone()
    labels_BT[0, 3:] = IGNORED
    mask_BT = batch.mask_BT.clone()
    mask_BT[1, 2] = False  # so that the second sample ends with the picture
    found = layout(replace(batch, labels_BT=labels_BT, mask_BT=mask_BT), packed=False)
    assert (found.length, found.is_full) == (4, True)


def test_a_batch_without_padding_is_full():
    batch = tiny.batch()
    first = Batch(**{name: value if value is None else value[:1] for name, value in vars(batch).items()})
    assert layout(first, packed=False).is_full


def test_the_layout_travels_with_the_batch():
    moved = with_layout(tiny.batch(), 3, packed=True).to("meta")
    assert moved.layout is not None
    assert moved.layout.packing is not None
    places = (moved.ids_BT, moved.layout.labels_K, moved.layout.packing.source_P)
    assert {tensor.device for tensor in places} == {torch.device("meta")}
    assert moved.layout.packing.lengths == (6, 4)
