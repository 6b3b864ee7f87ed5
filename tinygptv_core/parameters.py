"""How many parameters a model has, and how many of them a stage trains: counted from its sizes, without torch."""

import json
import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tinygptv_core.sizes import COLOURS, LlmSizes, ModelSizes, QFormerSizes, TowerSizes, sizes_told
from tinygptv_core.stage import Lora

QUERY_TOKENS = "query_tokens"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Of each part, adapters apart."""

    vision: int
    qformer: int
    projections: int
    llm: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.vision + self.qformer + self.projections + self.llm


def parameters(sizes: ModelSizes) -> Parameters:
    """Of a whole model of these sizes."""
    return Parameters(
        vision=_vision(sizes.vision),
        qformer=_qformer(sizes.qformer, sizes.vision.width),
        projections=sum(_linear(come, go) for come, go in pairwise(sizes.projection_widths)),
        llm=_llm(sizes.llm),
    )


def trained_parameters(sizes: ModelSizes, lora: Lora | None) -> int:
    """Of those that a stage trains: projections, the weights of the language model's norms, and adapters."""
    llm = sizes.llm
    # On input and on attention's output; on queries and keys; the last.
    norms = llm.layers * (2 * llm.width + 2 * (llm.width // llm.heads)) + llm.width
    # A and B of `query_key_value` (width -> 3 widths) and of `dense` (width -> width).
    adapters = llm.layers * lora.rank * (4 + 2) * llm.width if lora else 0
    return parameters(sizes).projections + norms + adapters


def _linear(come: int, go: int) -> int:
    return come * go + go


def _mlp(width: int, inner: int) -> int:
    return _linear(width, inner) + _linear(inner, width)


def _vision(tower: TowerSizes) -> int:
    width, tokens = tower.width, (tower.image_size // tower.patch_size) ** 2 + 1
    patches = COLOURS * tower.patch_size**2 * width + width
    block = 4 * width + _linear(width, 3 * width) + _linear(width, width) + _mlp(width, tower.mlp_width)
    return patches + width + tokens * width + tower.layers * block + 2 * width


def _qformer(qformer: QFormerSizes, read_width: int) -> int:
    width = qformer.width
    block = 4 * _linear(width, width) + 2 * width + _mlp(width, qformer.mlp_width) + 2 * width
    reading = 2 * _linear(width, width) + 2 * _linear(read_width, width) + 2 * width
    reading_layers = -(-qformer.layers // qformer.cross_attention_every)
    return qformer.queries * width + 2 * width + qformer.layers * block + reading_layers * reading


def _llm(llm: LlmSizes) -> int:
    width, head = llm.width, llm.width // llm.heads
    norms = 2 * width + 2 * 2 * head + width
    block = norms + _linear(width, 3 * width) + _linear(width, width) + _mlp(width, llm.mlp_width)
    return llm.vocabulary * width + _linear(width, llm.vocabulary) + llm.layers * block + 2 * width


def sizes_in(folder: Path) -> ModelSizes:
    """The sizes of a **backbones** artifact (docs/map.md), from its small files and the head of one large one."""
    return sizes_told(
        *(_json(folder / part / "config.json") for part in ("vision", "qformer", "llm")),
        queries=_queries(folder / "qformer" / "model.safetensors"),
        projection_widths=tuple(_json(folder / "backbones.json")["projection_widths"]),
    )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _queries(path: Path) -> int:
    """How many tokens a picture becomes: the second size of the only tensor of the queries."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
    (shape,) = (item["shape"] for name, item in head.items() if name.endswith(QUERY_TOKENS))
    return math.prod(shape[:-1])
