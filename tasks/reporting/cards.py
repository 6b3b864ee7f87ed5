"""The cards of a run's data sets, as JSON and as pages: made once for the same artifacts, and copied from there."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from tasks.reporting.card import DataCardSources, data_card_of, recipe_facts
from tinygptv_core.drafts import write_whole
from tinygptv_core.plain import sha256_of

CARD_VERSION = 4
"""Raised when a card of the same artifacts comes to say something else."""


def write_cards(sources: Iterable[DataCardSources], folder: Path, kept: Path) -> dict[str, Path]:
    """The cards of several data sets in `folder`, as NAME.html and NAME.json; data set -> the page.

    Args:
        kept: the folder of all cards that were ever made here.
    """
    pages: dict[str, Path] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        made = _made(source, kept)
        for path in made:
            shutil.copyfile(path, folder / f"{source.name}{path.suffix}")
        pages[source.name] = folder / f"{source.name}.html"
    return pages


def _made(source: DataCardSources, kept: Path) -> tuple[Path, Path]:
    """The card as JSON and as a page, made now unless it was made before of the same artifacts and recipe."""
    facts = recipe_facts(source.recipe)
    asked = {"version": CARD_VERSION, "data": source.name, "recipe": facts, "digests": source.digests}
    name = f"{source.name}-{sha256_of(asked)[:12]}"
    data, page = kept / f"{name}.json", kept / f"{name}.html"
    if not page.exists():  # it is written last
        from tasks.reporting.card_page import render_card

        kept.mkdir(parents=True, exist_ok=True)
        card = data_card_of(source)
        write_whole(data, json.dumps(card, indent=1, allow_nan=False) + "\n")
        write_whole(page, render_card(card, source.read))
    return data, page
