"""CC3M's, CC12M's and SBU's pictures with captions written by BLIP: the smaller list of pre-training."""

from tinygptv_core.columns import caption_turns
from tinygptv_core.recipe import Download, Recipe

RECIPE = Recipe(
    version=1,
    source="blip/ccs_synthetic_filtered_large.json",
    how="url",
    licence="Google's terms for Conceptual Captions, BSD-3-Clause (BLIP); each picture under its own terms",
    citation="Li et al., 2022, arXiv:2201.12086; Changpinyo et al., 2021, arXiv:2102.08981; Ordonez et al., 2011",
    picture="url",
    turns=caption_turns,
    expected_rows=12_560_000,
    files=(
        Download(
            path="blip/ccs_synthetic_filtered_large.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/BLIP/datasets/ccs_synthetic_filtered_large.json",
            direct=True,
            megabytes=1_800,
        ),
    ),
)
