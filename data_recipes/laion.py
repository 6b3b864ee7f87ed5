"""LAION-400M's pictures with captions written by BLIP: the larger list of pre-training.

LAION's safety revision of 2023-24 took some links off its lists, and asks that they be taken off what was made of them:
fetch with its removal list.
"""

from tinygptv_core.columns import caption_turns
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="blip/laion_synthetic_filtered_large.json",
    how="url",
    licence="CC-BY-4.0 (LAION's list), BSD-3-Clause (BLIP's captions); each picture under its own terms",
    citation="Li, Li, Xiong and Hoi, 2022, arXiv:2201.12086; Schuhmann et al., 2021, arXiv:2111.02114",
    picture="url",
    turns=caption_turns,
    expected_rows=104_900_000,
    files=(
        Download(
            path="blip/laion_synthetic_filtered_large.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/BLIP/datasets/laion_synthetic_filtered_large.json",
            direct=True,
            megabytes=15_000,
        ),
    ),
)
