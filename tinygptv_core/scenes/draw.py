"""A scene as a picture, the same bytes every time."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from tinygptv_core.scenes.scene import BACKGROUNDS, COLOURS, SIDE_PIXELS, Colour, Scene, Thing

# Drawn so many times larger, then averaged down: small shapes need their edges smooth.
OVERSAMPLING = 4
JPEG_QUALITY = 92
# Half the width of a cross's bar, as a part of the radius.
CROSS_BAR = 0.36

Point = tuple[float, float]


def draw(scene: Scene, paints: Sequence[Colour] | None = None) -> Image.Image:
    """The scene as an RGB picture of `SIDE_PIXELS` square; with `paints`, its things in those colours instead."""
    paints = paints or [COLOURS[thing.colour] for thing in scene.things]
    side = SIDE_PIXELS * OVERSAMPLING
    picture = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(picture)
    for thing, paint in zip(scene.things, paints, strict=True):
        _draw_thing(pen, thing, paint)
    return picture.reduce(OVERSAMPLING)


def jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG. Colours at full resolution: at this size, halved, they bleed out of the shapes."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, fill: Colour) -> None:
    left, top, right, bottom = (OVERSAMPLING * corner for corner in thing.corners)
    right, bottom = right - 1, bottom - 1  # Pillow paints the last row and column too
    if thing.shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=fill)
        return
    radius = (right - left) / 2
    outline = [(left + radius * (1 + x), top + radius * (1 + y)) for x, y in _outline(thing.shape)]
    pen.polygon(outline, fill=fill)


def _outline(shape: str) -> list[Point]:
    """The corners of a shape in the square -1..1, y downwards."""
    bar = CROSS_BAR
    match shape:
        case "square":
            return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        case "triangle":
            return [(0, -1), (1, 1), (-1, 1)]
        case "cross":
            upper = [(-bar, -1), (bar, -1), (bar, -bar), (1, -bar), (1, bar), (bar, bar)]
            return upper + [(-x, -y) for x, y in upper]
    raise ValueError(f"{shape!r} is no shape that can be drawn as a polygon")
