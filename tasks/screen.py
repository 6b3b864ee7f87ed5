"""Which samples of the shards stay: an index of them, and a drop with its reason for each other one.

The tars are not written again; the index has where each kept sample's bytes lie.
"""

import json
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from tasks.build import Site, Step
from tasks.picture_sets import PLACES_FILE, TARS_FILE
from tasks.tables import DROPPED_FILE, LEDGER_FILE, Drop, FirstOf, LedgerRow, TableWriter, Tally, clear, read_table
from tinygptv_core.presets import Screen

SCREEN = Step(name="screen", kind="index", version=1)
INDEX_COLUMNS = ("shard", "image", "image_bytes", "text", "text_bytes")


@dataclass(frozen=True, kw_only=True)
class Located:
    """One sample of the shards: its tar's number, and offset and size in it of picture (0, 0 for none) and text.

    `image_shard` is the tar that its picture is in, where that lies in a picture set (-1 for none); else None.
    """

    key: str
    shard: int
    image: tuple[int, int]
    text: tuple[int, int]
    picture_opens: bool
    image_shard: int | None = None


def screen(settings: Screen, shards: Path, site: Site) -> None:
    """The index of the samples in `shards` that pass, in order of shard and key.

    Sides are those of the picture as fetched. Of pictures with equal bytes the first that passes stays.

    Raises:
        ConfigError: nothing is left.
        AssertionError: ledger and tars do not have the same samples.
    """
    clear(site.out)
    tally, kept, num_samples = Tally(), array("q"), 0
    first = FirstOf(row.sha256 for row in _fetched(shards) if row.sha256) if settings.unique_bytes else FirstOf(())
    tars = sorted(shards.glob("*.tar"))
    in_sets = (shards / PLACES_FILE).is_file()
    with TableWriter(site.out / DROPPED_FILE, Drop) as dropped:
        located = _in_sets(shards / PLACES_FILE, _located(tars)) if in_sets else _located(tars)
        for row, sample in zip(_fetched(shards), located, strict=True):
            assert row.key == sample.key, f"the ledger has {row.key} where the tars have {sample.key}"
            num_samples += 1
            fault = _fault(settings, row, sample, first)
            if fault is None:
                kept.extend((sample.shard, *sample.image, *sample.text))
                kept.extend(() if sample.image_shard is None else (sample.image_shard,))
                tally.kept += 1
            else:
                dropped.write(Drop(key=row.key, url=row.url, reason=fault[0], detail=fault[1]))
                tally.dropped[fault[0]] += 1
    _save(kept, (*INDEX_COLUMNS, "image_shard") if in_sets else INDEX_COLUMNS, site.out / "samples.npy")
    if in_sets:
        (site.out / TARS_FILE).write_bytes((shards / TARS_FILE).read_bytes())
    (site.out / "shards.json").write_text(json.dumps([tar.name for tar in tars], indent=1) + "\n")
    tally.write(site.out, num_samples)


def _save(kept: "array[int]", names: tuple[str, ...], path: Path) -> None:
    """The index: of each kept sample its shard, and offset and size of its picture and of its text."""
    import numpy as np

    columns = np.array(kept, dtype=np.int64).reshape(-1, len(names))
    types = [(name, np.int32 if name.endswith("shard") else np.int64) for name in names]
    samples = np.empty(len(columns), dtype=types)
    for column, name in enumerate(names):
        samples[name] = columns[:, column]
    np.save(path, samples)


def _fetched(shards: Path) -> Iterator[LedgerRow]:
    return (row for row in read_table(shards / LEDGER_FILE, LedgerRow) if row.fate == "ok")


def _fault(settings: Screen, row: LedgerRow, sample: Located, first: FirstOf) -> tuple[str, str] | None:
    """Why a sample does not stay, as a reason and its detail."""
    if row.width is None or row.height is None:
        return None
    shorter, longer = sorted((row.width, row.height))
    if not sample.picture_opens:
        return "undecodable", "what the tar holds is no picture"
    if shorter < settings.min_side:
        return "too_small", f"{row.width} x {row.height}, a side at least {settings.min_side}"
    if longer > settings.max_aspect * shorter:
        return "too_elongated", f"{row.width} x {row.height}, at most {settings.max_aspect:g} to 1"
    holder = first.holder(row.sha256, row.key) if row.sha256 else None
    return ("duplicate", f"the bytes of {holder}") if holder else None


def _located(tars: list[Path]) -> Iterator[Located]:
    """Every sample of the tars, in order. Of a picture only the beginning is looked at: fetch decoded it whole."""
    for shard, path in enumerate(tars):
        with path.open("rb") as file, tarfile.open(path) as tar:
            for key, members in groupby(tar, key=lambda member: member.name.partition(".")[0]):
                image, text = (0, 0), (0, 0)
                for member in members:
                    if member.name == f"{key}.json":
                        text = member.offset_data, member.size
                    else:
                        image = member.offset_data, member.size
                yield Located(key=key, shard=shard, image=image, text=text, picture_opens=_opens(file, *image))


def _in_sets(places: Path, samples: Iterator[Located]) -> Iterator[Located]:
    """The same samples with their pictures where these lie in picture sets, which hold none that does not open."""
    import numpy as np

    for sample, (image_shard, image, size) in zip(samples, np.load(places, mmap_mode="r").tolist(), strict=True):
        yield replace(sample, image=(image, size), image_shard=image_shard, picture_opens=True)


def _opens(file: BinaryIO, offset: int, size: int) -> bool:
    from tasks.pictures import PictureError, opened

    file.seek(offset)
    try:
        opened(file.read(size))
    except PictureError:
        return False
    return True
