import pytest
import torch

from tinygptv_core.splice import splice_image, splice_labels, splice_mask


def test_the_image_takes_the_place_of_the_slot():
    text_BTD = torch.tensor([[1, 2, 3], [4, 5, 6]])[..., None]
    image_BQD = torch.tensor([[71, 72], [81, 82]])[..., None]
    merged_BSD = splice_image(text_BTD, image_BQD, slot_B=torch.tensor([1, 0]))
    assert merged_BSD[..., 0].tolist() == [[1, 71, 72, 3], [81, 82, 5, 6]]


def test_a_slot_at_the_end_and_a_single_query_work_too():
    text_BTD = torch.tensor([[1, 2, 3]])[..., None]
    assert splice_image(text_BTD, torch.tensor([[[7], [8]]]), torch.tensor([2]))[..., 0].tolist() == [[1, 2, 7, 8]]
    assert splice_image(text_BTD, torch.tensor([[[7]]]), torch.tensor([1]))[..., 0].tolist() == [[1, 7, 3]]


def test_labels_and_mask_move_with_the_text():
    labels_BT, mask_BT = torch.tensor([[-100, -100, 5, 6]]), torch.tensor([[False, True, True, True]])
    slot_B = torch.tensor([1])
    assert splice_labels(labels_BT, slot_B, num_queries=3).tolist() == [[-100, -100, -100, -100, 5, 6]]
    assert splice_mask(mask_BT, slot_B, num_queries=3).tolist() == [[False, True, True, True, True, True]]


def test_the_gradient_reaches_the_image_and_not_the_slot():
    text_BTD, image_BQD = torch.ones(1, 3, 2, requires_grad=True), torch.ones(1, 2, 2, requires_grad=True)
    splice_image(text_BTD, image_BQD, torch.tensor([1])).sum().backward()
    assert image_BQD.grad is not None
    assert text_BTD.grad is not None
    assert image_BQD.grad.tolist() == [[[1, 1], [1, 1]]]
    assert text_BTD.grad[0, :, 0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("slot", [-1, 3])
def test_a_slot_out_of_range_is_refused(slot):
    with pytest.raises(RuntimeError, match=r"a slot is not in 0..2"):
        splice_image(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4), torch.tensor([slot]))


@pytest.mark.parametrize("shape", [(2, 2, 4), (1, 2, 8)])
def test_images_of_another_batch_or_width_are_refused(shape):
    with pytest.raises(ValueError, match=r"text is \(B=1, T=3, D=4\) but image is"):
        splice_image(torch.zeros(1, 3, 4), torch.zeros(shape), torch.tensor([1]))
