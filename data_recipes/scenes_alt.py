"""More scenes with one-line captions, at addresses that all answer.

Drawn by the project (`tinygptv_core/scenes`). It stands for CC3M, CC12M and SBU, the smaller list of pre-training.
"""

from tinygptv_core.columns import caption_turns
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=1,
    source="lists/scenes_alt.json",
    how="url",
    licence="BSD-3-Clause",
    citation="drawn by this project",
    picture="url",
    turns=caption_turns,
    prompts=("{}",),
)
