"""The vision tower and the Q-Former learn to see scenes, without any language model.

Each query is given one cell of the grid and learns to say what is in it: shape, colour, size, box, and the
picture's background. The small heads that say it are thrown away; what the queries hold stays.

Half of the pictures are painted in any colours at all, without names: what a shape is must not depend on the
colours that it was met in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Blip2QFormerConfig, Blip2VisionConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerMultiHeadAttention

from tinygptv_core.batch import IGNORED
from tinygptv_core.image import squashed
from tinygptv_core.pretrain.optimize import optimize
from tinygptv_core.pretrain.settings import Optimization, PretrainingSizes
from tinygptv_core.qformer import QFormer
from tinygptv_core.scenes.draw import draw, jpeg
from tinygptv_core.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    RADII_PIXELS,
    SHAPES,
    SIDE_PIXELS,
    UNSEEN,
    Colour,
    Scene,
    Thing,
    draw_scene,
)
from tinygptv_core.vision import VisionTower

# Shape letters of this file: B batch, H = W side in pixels, N patches and the class token, Q queries (one a cell),
# X those with something in it, D width of tower and queries.


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What each cell holds. Boxes are in 0..1 of the side; where nothing is there, they and the classes are 0.

    The colour of a thing in a colour without name is `IGNORED`.
    """

    there_BQ: Tensor
    shape_BQ: Tensor
    colour_BQ: Tensor
    size_BQ: Tensor
    background_BQ: Tensor
    box_BQ4: Tensor


def vision_config(sizes: PretrainingSizes) -> Blip2VisionConfig:
    """BLIP-2's ViT at these sizes."""
    return Blip2VisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.feed_forward,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.width // sizes.head_width,
        image_size=SIDE_PIXELS,
        patch_size=sizes.patch_pixels,
        initializer_range=sizes.width**-0.5 / 2,
    )


def qformer_config(sizes: PretrainingSizes) -> Blip2QFormerConfig:
    """BLIP-2's Q-Former at these sizes, cross-attention in every layer, without dropout and without text."""
    return Blip2QFormerConfig(
        vocab_size=1,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.qformer_layers,
        num_attention_heads=sizes.width // sizes.head_width,
        intermediate_size=sizes.feed_forward,
        max_position_embeddings=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        cross_attention_frequency=1,
        encoder_hidden_size=sizes.width,
        initializer_range=sizes.width**-0.5 / 2,
    )


def start_well(vision: VisionTower, qformer: QFormer) -> None:
    """Start where learning is quick: BLIP-2's own start (all near 0) stands still for hundreds of steps.

    Patches, positions and queries are of the size that norms expect. Queries carry the places of their cells, and
    cross-attention begins with keys and queries mapped alike, so that each query looks at its own cell first.
    """
    embeddings, width = vision.tower.embeddings, qformer.config.hidden_size
    cells = vision.image_size // vision.patch_size
    values_a_patch = 3 * vision.patch_size**2
    with torch.no_grad():
        embeddings.patch_embedding.weight.normal_(std=values_a_patch**-0.5)
        embeddings.position_embedding[0, 1:] = grid_positions(cells, width)
        qformer.query_tokens[0] = grid_positions(GRID, width)
        for name, attention in qformer.named_modules():
            if isinstance(attention, Blip2QFormerMultiHeadAttention) and "crossattention" in name:
                attention.query.weight.normal_(std=width**-0.5)
                attention.key.weight.copy_(attention.query.weight)


class Heads(nn.Module):
    """What the queries are asked while they learn; thrown away afterwards. Linear, so that a projection can read it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.there = nn.Linear(width, 2)
        self.shape = nn.Linear(width, len(SHAPES))
        self.colour = nn.Linear(width, len(COLOURS))
        self.size = nn.Linear(width, len(RADII_PIXELS))
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.box = nn.Linear(width, 4)

    def loss(self, queries_BQD: Tensor, labels: Labels) -> Tensor:
        """The sum of the heads' mean losses; what a thing is like counts where there is one."""
        filled_BQ = labels.there_BQ == 1
        filled_XD = queries_BQD[filled_BQ]
        classes = (
            (self.there(queries_BQD).flatten(0, 1), labels.there_BQ.flatten()),
            (self.background(queries_BQD).flatten(0, 1), labels.background_BQ.flatten()),
            (self.shape(filled_XD), labels.shape_BQ[filled_BQ]),
            (self.colour(filled_XD), labels.colour_BQ[filled_BQ]),
            (self.size(filled_XD), labels.size_BQ[filled_BQ]),
        )
        box_loss = functional.smooth_l1_loss(self.box(filled_XD), labels.box_BQ4[filled_BQ], beta=BOX_BETA)
        return sum((functional.cross_entropy(logits, of) for logits, of in classes), BOX_WEIGHT * box_loss)


# Boxes are in parts of the side: an error of one pixel is 0.016.
BOX_BETA = 0.02
BOX_WEIGHT = 10.0

# The least distance of a colour without name from the background, in RGB; that of the named ones is 84 or more.
MIN_CONTRAST = 60.0


def train_tower(vision: VisionTower, qformer: QFormer, optimization: Optimization, log: Callable[[str], None]) -> None:
    """Train both in place on `optimization.steps` batches of training scenes, each scene new."""
    torch.manual_seed(optimization.seed)
    random, heads = Random(optimization.seed), Heads(qformer.config.hidden_size)
    start_well(vision, qformer)
    learned = nn.ModuleList([vision, qformer, heads]).requires_grad_(True)

    def loss() -> Tensor:
        scenes = [draw_scene(random, "train") for _ in range(optimization.batch)]
        painted = [_paints(random, scene) if row % 2 else None for row, scene in enumerate(scenes)]
        labels = labels_of(scenes)
        labels.colour_BQ[1::2] = IGNORED
        return heads.loss(qformer(vision(images_of(scenes, painted))), labels)

    optimize(learned, loss, optimization, lambda line: log(f"tower {line}"))
    learned.requires_grad_(False)


def images_of(scenes: Sequence[Scene], painted: Sequence[Sequence[Colour] | None] | None = None) -> Tensor:
    """The scenes as the model sees them, B x 3 x H x W, through JPEG as everywhere; `painted` as `draw` takes it."""
    pictures = [draw(scene, paints) for scene, paints in zip(scenes, painted or [None] * len(scenes), strict=True)]
    return torch.from_numpy(squashed([jpeg(picture) for picture in pictures], SIDE_PIXELS))


def _paints(random: Random, scene: Scene) -> list[Colour]:
    """A colour for each thing, any that stands out and does not look like one that its shape is never met in."""
    return [_paint(random, scene, thing) for thing in scene.things]


def _paint(random: Random, scene: Scene, thing: Thing) -> Colour:
    while True:
        paint = (random.randint(0, 255), random.randint(0, 255), random.randint(0, 255))
        nearest = min(COLOURS, key=lambda name: math.dist(COLOURS[name], paint))
        stands_out = math.dist(BACKGROUNDS[scene.background], paint) > MIN_CONTRAST
        if stands_out and (nearest, thing.shape) not in UNSEEN:
            return paint


def labels_of(scenes: list[Scene]) -> Labels:
    """What every cell of the scenes holds."""
    classes_B5Q = torch.zeros(len(scenes), 5, GRID * GRID, dtype=torch.int64)
    box_BQ4 = torch.zeros(len(scenes), GRID * GRID, 4)
    shapes, colours, sizes, backgrounds = list(SHAPES), list(COLOURS), list(RADII_PIXELS), list(BACKGROUNDS)
    for row, scene in enumerate(scenes):
        classes_B5Q[row, 4] = backgrounds.index(scene.background)
        for thing in scene.things:
            named = (1, shapes.index(thing.shape), colours.index(thing.colour), sizes.index(thing.size))
            classes_B5Q[row, :4, thing.cell] = torch.tensor(named)
            box_BQ4[row, thing.cell] = torch.tensor(thing.corners) / SIDE_PIXELS
    there_BQ, shape_BQ, colour_BQ, size_BQ, background_BQ = classes_B5Q.unbind(1)
    return Labels(
        there_BQ=there_BQ,
        shape_BQ=shape_BQ,
        colour_BQ=colour_BQ,
        size_BQ=size_BQ,
        background_BQ=background_BQ,
        box_BQ4=box_BQ4,
    )


def grid_positions(cells: int, width: int) -> Tensor:
    """Sines and cosines of the centres of `cells` x `cells` squares, rows first: cells**2 x `width`.

    The wave lengths run from twice the grid's side down to a sixteenth of that, whatever `cells` is, so that a coarse
    and a fine grid speak of places in one language.
    """
    centres = (torch.arange(cells) + 0.5) / cells
    waves = math.pi * 2 ** torch.linspace(0, 4, width // 4)
    angles = centres[:, None] * waves
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    down, across = axis[:, None].expand(-1, cells, -1), axis[None].expand(cells, -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)
