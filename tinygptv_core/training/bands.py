"""Which loss a preset's stages are expected to end with, so that a report can say whether a run's is usual."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tinygptv_core.plain import canonical_json
from tinygptv_core.presets import PRESETS
from tinygptv_core.stage import Stage

Verdict = Literal["below", "within", "above"]

MEASURED = "measured on two CPU cores, give or take a fifth"
PUBLISHED = (
    "arXiv:2312.16862 and its repository, while training, give or take a fifth: "
    "ours is the loss on held-out samples, without dropout"
)
TOLERANCE = 0.2


@dataclass(frozen=True, kw_only=True)
class LossBand:
    """Where the held-out loss after a stage is expected, in nats per target token: low <= loss <= high."""

    low: float
    high: float
    source: str

    def verdict(self, loss: float) -> Verdict:
        """Where `loss` lies."""
        if loss < self.low:
            return "below"
        return "above" if loss > self.high else "within"


def _band(source: str, *losses: float) -> LossBand:
    return LossBand(low=min(losses) * (1 - TOLERANCE), high=max(losses) * (1 + TOLERANCE), source=source)


PAPER_BANDS = {
    "stage1": _band(PUBLISHED, 2.620),
    "stage2": _band(PUBLISHED, 2.343),
    "stage3": _band(PUBLISHED, 1.125),
    "stage4": _band(PUBLISHED, 1.399, 1.330),  # the paper's text and its table
}
BANDS: Mapping[str, Mapping[str, LossBand]] = {
    "nano": {
        "stage1": _band(MEASURED, 0.70),
        "stage2": _band(MEASURED, 0.30),
        "stage3": _band(MEASURED, 0.34),
        "stage4": _band(MEASURED, 0.79),
    },
    "paper": PAPER_BANDS,
    "as_published": PAPER_BANDS,
}
"""Preset -> stage -> band. They say nothing of what is computed, and are in no key."""


def band_of(preset: str, stage: Stage) -> LossBand | None:
    """What is expected of `stage`; None where that is not known, as of a stage whose settings were changed.

    The seed is no such setting: chance is what the band is wide for.
    """
    published = {item.name: item for item in PRESETS[preset].stages} if preset in PRESETS else {}
    known = published.get(stage.name)
    if known is None or canonical_json(replace(stage, seed=known.seed)) != canonical_json(known):
        return None
    return BANDS.get(preset, {}).get(stage.name)
