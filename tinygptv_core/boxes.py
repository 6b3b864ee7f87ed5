"""Boxes as the model spells them, "{<left><top><right><bottom>}": hundredths of the picture's sides."""

import re

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, as they are spelled; nothing says that they are in order, or at most 100."""

SPELLED = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")


def boxes_in(text: str) -> list[Box]:
    """Every box in a text, in its order.

    >>> boxes_in("from {<0><10><100><20>} to {<1><2>} and {<3><4><5><6>}")
    [(0, 10, 100, 20), (3, 4, 5, 6)]
    """
    found = (map(int, corners) for corners in SPELLED.findall(text))
    return [(left, top, right, bottom) for left, top, right, bottom in found]


def first_box(text: str) -> Box | None:
    """The first box in a text; None if there is none."""
    return next(iter(boxes_in(text)), None)


def spelled(corners: tuple[float, float, float, float], width: float, height: float) -> str:
    """A box as the model spells it, truncated (MiniGPT-v2, arXiv:2310.09478).

    Divided before it is multiplied, as the reference does: 29 of 100 pixels are 28 hundredths.

    Args:
        corners: left, top, right and bottom in pixels, within the picture.
        width, height: of the picture, in pixels, above 0.
    """
    sides = (width, height, width, height)
    return "{" + "".join(f"<{int(c / side * 100)}>" for c, side in zip(corners, sides, strict=True)) + "}"


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
