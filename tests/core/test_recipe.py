import pytest

from tinygptv_core.recipe import answer_shares, clean_caption, spelled_box


@pytest.mark.parametrize(
    ("corners", "spelled"),
    [((0, 0, 200, 50), "{<0><0><100><100>}"), ((3, 0.4, 199.9, 49.9), "{<1><0><99><99>}")],
)
def test_a_box_is_spelled_in_truncated_hundredths(corners, spelled):
    assert spelled_box(corners, width=200, height=50) == spelled


def test_answers_are_drawn_by_how_many_gave_them_cleaned():
    assert answer_shares(["Bus", "bus.", "a truck", "BUS"]) == {"bus": 0.75, "a truck": 0.25}


def test_no_answer_is_refused():
    with pytest.raises(ValueError, match="no answer to draw"):
        answer_shares([])


def test_a_caption_is_lower_case_without_marks_and_of_at_most_50_words():
    assert clean_caption(' A "Red" bus:  (old)!\n') == "a red bus old"
    assert clean_caption(" ".join(["word"] * 60)) == " ".join(["word"] * 50)


def test_a_single_tab_or_line_break_stays_as_in_the_reference():
    assert clean_caption("tabs\t\tand\nlines") == "tabs and\nlines"
