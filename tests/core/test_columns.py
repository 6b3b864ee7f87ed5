from tinygptv_core.columns import clean_caption


def test_a_caption_is_lower_case_without_marks_and_of_at_most_50_words():
    assert clean_caption(' A "Red" bus:  (old)!\n') == "a red bus old"
    assert clean_caption(" ".join(["word"] * 60)) == " ".join(["word"] * 50)


def test_a_single_tab_or_line_break_stays_as_in_the_reference():
    assert clean_caption("tabs\t\tand\nlines") == "tabs and\nlines"
