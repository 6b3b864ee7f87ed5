"""A scene: one to four coloured shapes on a grid of three by three cells, drawn at random from a seed.

Which side of the split a scene is on is a property of the scene, not of a list: it follows from its
content. So whatever draws scenes for training, with whatever seed, never draws a held-out one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

Colour = tuple[int, int, int]
Split = Literal["train", "held_out", "unseen"]

SIDE_PIXELS = 64
GRID = 3
MAX_THINGS = 4

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
COLOURS: Mapping[str, Colour] = {
    "red": (214, 32, 32),
    "green": (24, 140, 52),
    "blue": (36, 72, 214),
    "yellow": (246, 222, 30),
    "purple": (134, 44, 178),
    "orange": (246, 134, 18),
    "cyan": (50, 204, 220),
    "pink": (250, 134, 194),
}
RADII_PIXELS: Mapping[str, int] = {"small": 7, "large": 9}
BACKGROUNDS: Mapping[str, Colour] = {
    "white": (250, 250, 250),
    "black": (14, 14, 14),
    "gray": (128, 128, 128),
    "beige": (232, 214, 176),
}
PLACES = (
    "top left",
    "top middle",
    "top right",
    "middle left",
    "center",
    "middle right",
    "bottom left",
    "bottom middle",
    "bottom right",
)

# Kept out of every training picture and text: what is answered about them was put together, not remembered.
# Each shape is in one of them and no colour in two, so that every word is still learned.
UNSEEN = frozenset(
    {
        ("green", "circle"),
        ("purple", "square"),
        ("blue", "triangle"),
        ("yellow", "cross"),
    }
)
# One scene in so many is held out.
HELD_OUT_ONE_IN = 16
# A shape's centre lies so far from its cell's, at most, each way.
MAX_SHIFT_PIXELS = 1


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape: `cell` counts 0..8 in reading order, the shifts are in pixels from the cell's centre."""

    shape: str
    colour: str
    size: str
    cell: int
    shift_right_pixels: int
    shift_down_pixels: int

    @property
    def place(self) -> str:
        """Where its cell lies, in words."""
        return PLACES[self.cell]

    @property
    def unseen(self) -> bool:
        """Whether its colour and shape together are kept out of training."""
        return (self.colour, self.shape) in UNSEEN

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Its box in pixels: left, top, right, bottom; the last two are just outside."""
        row, column = divmod(self.cell, GRID)
        across = (2 * column + 1) * SIDE_PIXELS // (2 * GRID) + self.shift_right_pixels
        down = (2 * row + 1) * SIDE_PIXELS // (2 * GRID) + self.shift_down_pixels
        radius = RADII_PIXELS[self.size]
        return across - radius, down - radius, across + radius, down + radius


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background with one to four things on it, in reading order, one a cell."""

    background: str
    things: tuple[Thing, ...]

    @property
    def content(self) -> str:
        """What can be said about it; scenes that differ by a pixel's shift have the same."""
        return "; ".join((self.background, *(f"{t.cell} {t.size} {t.colour} {t.shape}" for t in self.things)))

    @property
    def split(self) -> Split:
        """The side of the split that it is on."""
        if any(thing.unseen for thing in self.things):
            return "unseen"
        bucket = int.from_bytes(hashlib.sha256(self.content.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN
        return "held_out" if bucket == 0 else "train"


def draw_scene(random: Random, split: Split) -> Scene:
    """A scene of `split`: the number of things, then everything about each, equally likely."""
    while True:
        scene = _any_scene(random)
        if scene.split == split:
            return scene


def _any_scene(random: Random) -> Scene:
    cells = sorted(random.sample(range(GRID * GRID), random.randint(1, MAX_THINGS)))
    return Scene(background=random.choice(list(BACKGROUNDS)), things=tuple(_any_thing(random, cell) for cell in cells))


def _any_thing(random: Random, cell: int) -> Thing:
    return Thing(
        shape=random.choice(SHAPES),
        colour=random.choice(list(COLOURS)),
        size=random.choice(list(RADII_PIXELS)),
        cell=cell,
        shift_right_pixels=random.randint(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS),
        shift_down_pixels=random.randint(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS),
    )
