"""A user's own list of pictures on the web with captions, in place of the lists of pre-training.

`tinygptv run --list FILE` puts FILE in the place of `source`. Where a record has `width` and `height`, the filter
can ask for them.
"""

from tinygptv_core.columns import caption_turns
from tinygptv_core.recipe import Recipe

RECIPE = Recipe(
    version=1,
    source="list",
    how="url",
    licence="the user's",
    citation="the user's",
    picture="url",
    turns=caption_turns,
    prompts=("{}",),
    size=("width", "height"),
)
