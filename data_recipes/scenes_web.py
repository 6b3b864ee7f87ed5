"""Scenes with one-line captions, at addresses as on the web: dead links and broken pictures among them.

Drawn by the project (`tinygptv_core/scenes`). It stands for LAION, the larger list of pre-training.
"""

from tinygptv_core.columns import caption_turns
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=1,
    source="lists/scenes_web.json",
    how="url",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="url",
    turns=caption_turns,
    prompts=("{}",),
)
