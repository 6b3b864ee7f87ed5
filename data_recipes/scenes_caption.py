"""Scenes with captions of one sentence, as in COCO."""

from tinygptv_core.columns import caption_turns
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=1,
    source="annotations/scenes_caption.json",
    how="file",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="image",
    turns=caption_turns,
    prompts=(
        "[caption] Sum up this picture in a sentence.",
        "[caption] What does the picture show?",
        "[caption] Give the picture a short caption.",
        "[caption] In a few words, what is there to see?",
        "[caption] Describe the picture briefly.",
    ),
)
