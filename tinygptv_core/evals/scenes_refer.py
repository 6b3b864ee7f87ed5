"""Boxes for phrases about held-out scenes: right when they overlap the true box by more than half.

IoU > 0.5, the measure of RefCOCO (Yu et al., 2016, arXiv:1608.00272). An answer that is no box counts as wrong; some
evaluations leave it out.
"""

import re
from collections.abc import Sequence

from tinygptv_core.evals import Eval

Box = tuple[int, int, int, int]

BOX = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")
MIN_OVERLAP = 0.5


def parsed(text: str) -> Box | None:
    """The first `{<x1><y1><x2><y2>}` of a text; None if there is none.

    >>> parsed("at {<0><10><100><20>}")
    (0, 10, 100, 20)
    """
    if not (found := BOX.search(text)):
        return None
    left, top, right, bottom = (int(number) for number in found.groups())
    return left, top, right, bottom


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0..1; a box without area overlaps nothing."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(one) + _area(other) - common)


def published_overlap(one: Box, other: Box) -> float:
    """As `overlap`, by the reference's rule that both edges belong to a box: from 0 to 10 it is 11 wide."""
    return overlap(*((left, top, right + 1, bottom + 1) for left, top, right, bottom in (one, other)))


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def hit(answer: str, references: Sequence[str]) -> float:
    """1.0 when the answer's box overlaps one of the references' by more than half, else 0.0."""
    found = parsed(answer)
    wanted = [box for box in map(parsed, references) if box is not None]
    return float(found is not None and any(overlap(found, box) > MIN_OVERLAP for box in wanted))


EVAL = Eval(
    version=1,
    dataset="scenes_test",
    split="refer",
    prompt="[refer] give me the location of {}",
    max_new_tokens=14,
    metric="iou50",
    score=hit,
)
