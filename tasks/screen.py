"""Which samples of the shards stay: an index of them, and a drop with its reason for each other one.

The tars are not written again; the index has where each kept sample's bytes lie.
"""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.filtering.repeats import FirstOf
from tasks.hashes import Hashed, joined, listed_hashes, read_hashes, together
from tasks.picture_sets import TARS_FILE
from tasks.ratings import RATINGS_FILE, spread
from tasks.request import Step, StepFolders
from tasks.tables import DROPPED_FILE, KEPT, LEDGER_FILE, Drop, LedgerRow, TableWriter, Tally, clear, read_table
from tasks.tars import SampleLocation, SampleReader, Sharing, over_tars, samples_in
from tinygptv_core.settings import Scorer, Screen

SCREEN = Step(name="screen", kind="index", version=2)

Fault = tuple[str, str]
"""Why a sample does not stay: the reason, and its detail."""


@dataclass(frozen=True, kw_only=True)
class Screened:
    """A data set that was screened before: the folders of its hashes and of its index."""

    hashes: Path
    index: Path


@dataclass(frozen=True, kw_only=True)
class EvaluationPictures:
    """A data set that evaluations read: the folder of its hashes, and the splits that they ask about (None: all)."""

    hashes: Path
    splits: Sequence[str] | None


@dataclass(frozen=True, kw_only=True)
class Against:
    """What the rules compare a data set's samples with. A rule that has nothing here drops nothing.

    Attributes:
        hashes: the folder of the data set's own hashes; None where no rule reads them.
        before: the data sets whose pictures it is not to repeat, in order.
        evaluation: the data sets whose pictures it is not to have.
        ratings: scorer -> the folder of its scores.
        removed_sha256: of a removal list, the SHA-256 of pictures as fetched, in lower-case hex.
        removed_phash: of a removal list, perceptual hashes, in hex.
    """

    hashes: Path | None = None
    before: Mapping[str, Screened] = field(default_factory=dict)
    evaluation: Mapping[str, EvaluationPictures] = field(default_factory=dict)
    ratings: Mapping[str, Path] = field(default_factory=dict)
    removed_sha256: frozenset[str] = frozenset()
    removed_phash: frozenset[str] = frozenset()


def screen(settings: Screen, shards: Path, against: Against, folders: StepFolders, sharing: Sharing) -> None:
    """The index of the samples in `shards` that pass, in order of shard and key.

    Sides are those of the picture as fetched. Of pictures with equal bytes the first that passes the other rules
    stays; of near-duplicates the first that passes all, those of the data sets before coming first.

    Raises:
        ConfigError: nothing is left.
        AssertionError: ledger and tars do not have the same samples.
    """
    import numpy as np

    from tinygptv_core.shards import INDEX_COLUMNS, SHARED_COLUMNS, write_index

    clear(folders.out)
    tars = sorted(shards.glob("*.tar"))
    faults, samples = _faults(settings, shards, against, over_tars(_looked_at, tars, sharing))
    tally = Tally()
    with TableWriter(folders.out / DROPPED_FILE, Drop) as dropped:
        for place, (_, row) in enumerate(_fetched(shards)):
            reason, detail = faults.get(place, (KEPT, ""))
            tally.count(reason)
            if reason != KEPT:
                dropped.write(Drop(key=row.key, url=row.url, reason=reason, detail=detail))
    in_sets = (shards / TARS_FILE).is_file()
    names = SHARED_COLUMNS if in_sets else INDEX_COLUMNS
    columns = np.array(samples, dtype=np.int64).reshape(-1, len(names))
    write_index(np.delete(columns, list(faults), axis=0), names, folders.out / "samples.npy")
    if in_sets:
        (folders.out / TARS_FILE).write_bytes((shards / TARS_FILE).read_bytes())
    (folders.out / "shards.json").write_text(json.dumps([tar.name for tar in tars], indent=1) + "\n")
    tally.write(folders.out, len(columns), "" if tally.kept else _spreads(against.ratings))


def _fetched(shards: Path) -> Iterator[tuple[int, LedgerRow]]:
    """The rows of the ledger that came, each with its place among all rows."""
    return ((at, row) for at, row in enumerate(read_table(shards / LEDGER_FILE, LedgerRow)) if row.fate == "ok")


def _looked_at(tar: Path) -> list[tuple[SampleLocation, bool]]:
    """Every sample of a tar, and whether it has a picture that begins as one: fetch decoded it whole."""
    from tasks.screening.pictures import opens

    with SampleReader(tar, {}) as opened:  # what lies in picture sets was decoded there
        return [(one, one.image_shard is not None or opens(opened.picture(one))) for one in samples_in(tar)]


def _faults(
    settings: Screen, shards: Path, against: Against, found: Iterator[list[tuple[SampleLocation, bool]]]
) -> tuple[dict[int, Fault], "array[int]"]:
    """What is wrong with each sample that does not stay, by place; and where all lie, a number for each column."""
    own = read_hashes(against.hashes) if against.hashes else None
    known = [*(_by_hash(settings, against, own) if own else ()), *_by_score(settings.scorers, against.ratings)]
    bytes_of = (row.sha256 for _, row in _fetched(shards) if row.sha256)
    first = FirstOf(bytes_of if settings.unique_bytes else ())
    faults, samples = dict[int, Fault](), array("q")
    located = ((shard, *sample) for shard, in_tar in enumerate(found) for sample in in_tar)
    for place, ((at, row), (shard, sample, opens)) in enumerate(zip(_fetched(shards), located, strict=True)):
        assert row.key == sample.key, f"the ledger has {row.key} where the tars have {sample.key}"
        samples.extend((at, shard, *sample.image, *sample.text))
        samples.extend(() if sample.image_shard is None else (sample.image_shard,))
        fault = _unfit(settings, row, opens, against.removed_sha256)
        fault = fault or next((hits[place] for hits in known if place in hits), None) or _repeated(row, first)
        if fault is not None:
            faults[place] = fault
    if own is not None and settings.near_duplicate_bits is not None:
        faults |= _near_duplicates(settings.near_duplicate_bits, against.before, own, faults)
    return faults, samples


def _unfit(settings: Screen, row: LedgerRow, opens: bool, removed: frozenset[str]) -> Fault | None:
    """What can be said of a picture by itself."""
    if row.width is None or row.height is None:
        return None
    shorter, longer = sorted((row.width, row.height))
    if row.sha256 in removed:
        return "removed_sha256", "a removal list names its bytes"
    if not opens:
        return "undecodable", "what the tar holds is no picture"
    if shorter < settings.min_side:
        return "too_small", f"{row.width} x {row.height}, a side at least {settings.min_side}"
    if longer > settings.max_aspect * shorter:
        return "too_elongated", f"{row.width} x {row.height}, at most {settings.max_aspect:g} to 1"
    return None


def _repeated(row: LedgerRow, first: FirstOf) -> Fault | None:
    holder = first.holder(row.sha256, row.key) if row.sha256 else None
    return ("duplicate", f"the bytes of {holder}") if holder else None


Hits = Mapping[int, Fault]
"""The faults that a rule finds, by place."""


def _by_hash(settings: Screen, against: Against, own: Hashed) -> Iterator[Hits]:
    """What the rules find that hold a picture against those of others."""
    if against.removed_phash:
        yield _near_any(own, listed_hashes(against.removed_phash), settings.removal_bits, "removed_phash")
    if against.evaluation and settings.evaluation_bits is not None:
        asked = {name: read_hashes(item.hashes, splits=item.splits) for name, item in against.evaluation.items()}
        yield _near_any(own, together(asked), settings.evaluation_bits, "in_evaluation")


def _near_any(own: Hashed, others: Hashed, bits: int, reason: str) -> Hits:
    from tasks.screening.near import NONE, near_others

    other = near_others(own.hashes, others.hashes, bits).tolist()
    return {int(own.places[i]): (reason, own.told(i, others, j)) for i, j in enumerate(other) if j != NONE}


def _by_score(scorers: Sequence[Scorer], ratings: Mapping[str, Path]) -> Iterator[Hits]:
    """What the scorers' bounds leave out."""
    import numpy as np
    import pyarrow.parquet as pq

    for scorer in scorers:
        scores = pq.read_table(ratings[scorer.name] / RATINGS_FILE)["score"].to_numpy()  # NaN where there is none
        low, high = scorer.at_least, scorer.at_most
        if low is not None:
            told = f"at least {low:g}"
            yield {int(i): (f"low_{scorer.name}", f"{scores[i]:g}, {told}") for i in np.flatnonzero(scores < low)}
        if high is not None:
            told = f"at most {high:g}"
            yield {int(i): (f"high_{scorer.name}", f"{scores[i]:g}, {told}") for i in np.flatnonzero(scores > high)}


def _spreads(ratings: Mapping[str, Path]) -> str:
    return "".join(f". The scores of {name}: {spread(folder)}" for name, folder in ratings.items())


def _near_duplicates(bits: int, before: Mapping[str, Screened], own: Hashed, faults: Hits) -> Hits:
    """Of the pictures that pass all other rules, those that nearly repeat one that stays."""
    import numpy as np

    from tasks.screening.near import NONE, near_earlier

    passing = own.only(~np.isin(own.places, np.fromiter(faults, dtype=np.int64, count=len(faults))))
    settled = together(
        {name: read_hashes(item.hashes, without=item.index / DROPPED_FILE) for name, item in before.items()}
    )
    everything = joined([settled, passing])
    holder = near_earlier(everything.hashes, len(settled.hashes), bits).tolist()
    return {
        int(everything.places[i]): ("near_duplicate", everything.told(i, everything, j))
        for i, j in enumerate(holder)
        if j != NONE
    }
