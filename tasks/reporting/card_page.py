"""A data set's card as a page: one file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.quantities import spread
from tasks.reporting.card import DataCard, Distribution
from tasks.reporting.page import environment, picture_url
from tasks.segments import NOT_WANTED
from tinygptv_core.recipe import Turn
from tinygptv_core.run import DataFolders
from tinygptv_core.shards import ShardSet

SHOWN_SAMPLES = 12
SHOWN_HOSTS = 20


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample as the page shows it; `picture` as a data URL, nothing for text."""

    key: str
    picture: str
    turns: Sequence[Turn]
    split: str | None


def render_card(card: DataCard, folders: DataFolders) -> str:
    """The page as HTML. Whatever comes from data (captions, URLs, hosts) is escaped by the template."""
    spreads: Mapping[str, Distribution | None] = {
        "words that the model is to say": card["words"],
        "width in pixels, as fetched": card["width"],
        "height in pixels, as fetched": card["height"],
    }
    return (
        environment()
        .get_template("card.html.jinja")
        .render(
            card=card,
            hosts=card["hosts"][:SHOWN_HOSTS],
            not_wanted=card["counts"]["dropped"].get(NOT_WANTED, 0),
            spreads={name: spread for name, spread in spreads.items() if spread},
            examples=examples_in(folders),
        )
    )


def examples_in(folders: DataFolders) -> list[Example]:
    """Some samples that stay, evenly from first to last."""
    shards = ShardSet(folders)
    return [
        Example(
            key=sample.key,
            picture=picture_url(sample.picture) if sample.picture else "",
            turns=sample.turns,
            split=sample.split,
        )
        for sample in (shards[place] for place in spread(range(len(shards)), SHOWN_SAMPLES))
    ]
