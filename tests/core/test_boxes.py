"""Boxes as the model spells them."""

import pytest

from tinygptv_core.boxes import boxes_in, first_box, overlap, published_overlap, spelled


@pytest.mark.parametrize(
    ("corners", "text"),
    [
        ((0, 0, 200, 50), "{<0><0><100><100>}"),
        ((3, 0.4, 199.9, 49.9), "{<1><0><99><99>}"),
        ((58, 0, 116, 29), "{<28><0><57><57>}"),
    ],
)
def test_a_box_is_spelled_in_truncated_hundredths(corners, text):
    assert spelled(corners, width=200, height=50) == text


def test_a_text_has_the_boxes_that_are_spelled_in_full():
    text = "{<1><2><3>} {<1000><0><1><1>} {<9><8><700><6>} and {<0><10><100><20>}"
    assert boxes_in(text) == [(9, 8, 700, 6), (0, 10, 100, 20)]
    assert first_box(text) == (9, 8, 700, 6) and first_box("{<1><2><3>}") is None


def test_boxes_overlap_by_what_is_common_of_what_both_cover():
    assert overlap((0, 0, 40, 40), (0, 0, 40, 20)) == 0.5
    assert overlap((0, 0, 40, 40), (40, 0, 60, 40)) == overlap((5, 5, 5, 9), (0, 0, 9, 9)) == 0.0


def test_as_published_both_edges_belong_to_a_box():
    assert published_overlap((0, 0, 9, 9), (0, 0, 9, 4)) == 0.5
