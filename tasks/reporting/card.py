"""A data set's card: what it is, what became of its rows, and what is in it.

Made from the data set's four artifacts alone, column by column and where need be from a sample of their rows, so that
it costs a blink.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tasks.hosts import hosts_of
from tasks.quantities import spread
from tasks.tables import DROPPED_FILE, KEPT, LEDGER_FILE, ROWS_FILE, data_counts, read_counts
from tinygptv_core.recipe import Recipe
from tinygptv_core.run import DataFolders

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyarrow.compute import Expression

STEPS = ("rows", "filter", "fetch", "screen")

SAMPLED_ROWS = 5_000
"""Of so many kept rows, evenly from first to last, the words are counted."""
SHOWN_HOSTS, SHOWN_DROPS = 100, 3


class Counts(TypedDict):
    """rows = kept + the sum of dropped."""

    rows: int
    kept: int
    dropped: dict[str, int]


class Host(TypedDict):
    """What became of the rows whose picture is on one host."""

    host: str
    kept: int
    dropped: dict[str, int]


class Bin(TypedDict):
    """How many values lie in `low` <= value < `high`."""

    low: int
    high: int
    count: int


class Distribution(TypedDict):
    """Whole numbers, `of` so many things."""

    of: int
    least: int
    median: float
    mean: float
    most: int
    bins: list[Bin]


class DropExample(TypedDict):
    """One row that goes no further."""

    key: str
    url: str | None
    detail: str


class DataCard(TypedDict):
    """NAME.json. What a data set does not have (hosts, pictures) is empty or None.

    `of_hosts` is how many rows all `num_hosts` hosts have together: all that have a host in their URL, but not those
    that were not wanted, whose URLs the ledger does not have. `hosts` are those with the most rows.
    `words` are those that the model is to say in a sample; `width` and `height` are of pictures as fetched, in pixels.
    """

    data: str
    recipe: dict[str, Any]
    counts: Counts
    steps: dict[str, Counts]
    drops: dict[str, list[DropExample]]
    num_hosts: int
    of_hosts: int
    hosts: list[Host]
    words: Distribution | None
    width: Distribution | None
    height: Distribution | None
    digests: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class DataCardSources:
    """What a card is made from: the data set's name and recipe, and of each of its steps the folder and its digest."""

    name: str
    recipe: Recipe
    folders: Mapping[str, Path]
    digests: Mapping[str, str]
    read: DataFolders


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """What the card says of the recipe, by name."""
    names = ("version", "source", "how", "licence", "citation", "expected_rows")
    return {name: getattr(recipe, name) for name in names}


def data_card_of(source: DataCardSources) -> DataCard:
    """What the card says."""
    import pyarrow.parquet as pq

    folders = source.folders
    columns = ["key", "width", "height"]
    kept = pq.read_table(folders["fetch"] / LEDGER_FILE, columns=columns, filters=_stays(folders))
    hosts = _hosts(folders)
    return {
        "data": source.name,
        "recipe": recipe_facts(source.recipe),
        "counts": _counts(data_counts(*(folders[step] for step in STEPS))),
        "steps": {step: _counts(read_counts(folders[step])) for step in STEPS},
        "drops": _drops(folders),
        "num_hosts": len(hosts),
        "of_hosts": sum(map(_num_rows, hosts)),
        "hosts": hosts[:SHOWN_HOSTS],
        "words": _distribution(_words(folders["filter"] / ROWS_FILE, kept["key"])),
        "width": _distribution(kept["width"].drop_null().to_numpy()),
        "height": _distribution(kept["height"].drop_null().to_numpy()),
        "digests": dict(source.digests),
    }


def _counts(found: Mapping[str, Any]) -> Counts:
    return {"rows": found["rows"], "kept": found["kept"], "dropped": dict(found["dropped"])}


def _stays(folders: Mapping[str, Path]) -> "Expression":
    """Which rows of the ledger are kept to the end."""
    import pyarrow.parquet as pq
    from pyarrow.compute import field

    screened_out = pq.read_table(folders["screen"] / DROPPED_FILE, columns=["key"])["key"].combine_chunks()
    return (field("fate") == KEPT) & ~field("key").isin(screened_out)


def _dropped(folders: Mapping[str, Path]) -> Iterator["pa.Table"]:
    """Every dropped row, some at a time: key, url, fate (the reason), detail. What fetch dropped is in its ledger."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.compute import field

    for step in STEPS:
        path = folders[step] / (LEDGER_FILE if step == "fetch" else DROPPED_FILE)
        fate = "fate" if step == "fetch" else "reason"
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["key", "url", fate, "detail"]):
                rows = pa.table({"fate": batch[fate], **{name: batch[name] for name in ("key", "url", "detail")}})
                yield rows.filter(field("fate") != KEPT)


def _drops(folders: Mapping[str, Path]) -> dict[str, list[DropExample]]:
    """The first few rows dropped for each reason."""
    from pyarrow.compute import field

    found: dict[str, list[DropExample]] = {}
    for dropped in _dropped(folders):
        for reason in dropped["fate"].unique().to_pylist():
            examples = found.setdefault(reason, [])
            rows = dropped.filter(field("fate") == reason).slice(0, SHOWN_DROPS - len(examples)).to_pylist()
            examples.extend({"key": row["key"], "url": row["url"], "detail": row["detail"]} for row in rows)
    return dict(sorted(found.items()))


def _hosts(folders: Mapping[str, Path]) -> list[Host]:
    """What became of the rows of every host but those that were not wanted, that with the most rows first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = pq.read_table(folders["fetch"] / LEDGER_FILE, columns=["url", "fate"], filters=_stays(folders))
    counts = [_by_host(kept), *map(_by_host, _dropped(folders))]
    rows = pa.concat_tables(counts).group_by(["host", "fate"]).aggregate([("n", "sum")]).to_pylist()
    found: dict[str, Host] = {}
    for row in rows:
        host = found.setdefault(row["host"], {"host": row["host"], "kept": 0, "dropped": {}})
        if row["fate"] == KEPT:
            host["kept"] = row["n_sum"]
        else:
            host["dropped"][row["fate"]] = row["n_sum"]
    for host in found.values():
        host["dropped"] = dict(sorted(host["dropped"].items(), key=lambda item: (-item[1], item[0])))
    return sorted(found.values(), key=lambda host: (-_num_rows(host), host["host"]))


def _num_rows(host: Host) -> int:
    return host["kept"] + sum(host["dropped"].values())


def _by_host(rows: "pa.Table") -> "pa.Table":
    """How many of the rows (url, fate) there are of each host and fate: host, fate, n. Of none where no host is."""
    import pyarrow as pa
    from pyarrow.compute import field

    # Chunk by chunk: an array of texts holds two gigabytes at most.
    host = pa.chunked_array([hosts_of(chunk).dictionary_decode() for chunk in rows["url"].chunks], pa.string())
    found = pa.table({"host": host, "fate": rows["fate"]}).filter(field("host") != "")
    return found.group_by(["host", "fate"]).aggregate([([], "count_all")]).rename_columns(["host", "fate", "n"])


def _words(table: Path, kept: "pa.ChunkedArray") -> "NDArray[np.int64]":
    """How many words the model is to say in each of some rows of a table that are kept, evenly from first to last."""
    import numpy as np
    import pyarrow.parquet as pq
    from pyarrow.compute import field

    sampled = kept.take(list(spread(range(len(kept)), SAMPLED_ROWS)))
    rows = pq.read_table(table, columns=["turns"], filters=field("key").isin(sampled.combine_chunks()))
    return np.array([_num_words(turns) for turns in rows["turns"].to_pylist()], dtype=np.int64)


def _num_words(turns: str) -> int:
    return sum(len(text.split()) for role, text, *_ in json.loads(turns) if role == "assistant")


def _distribution(values: "NDArray[np.integer]") -> Distribution | None:
    """How whole numbers from 0 on are spread, in bins that double: 0, 1, 2 to 3, 4 to 7 ...; None of no numbers."""
    import numpy as np

    if not len(values):
        return None
    edges = [0, *(2**power for power in range(int(values.max()).bit_length() + 1))]
    counts, _ = np.histogram(values, bins=edges)
    bins: list[Bin] = [
        {"low": low, "high": high, "count": int(count)}
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
    ]
    first = next(place for place, one in enumerate(bins) if one["count"])
    return {
        "of": len(values),
        "least": int(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "most": int(values.max()),
        "bins": bins[first:],
    }
