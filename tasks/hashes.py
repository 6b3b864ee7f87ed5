"""The perceptual hash of every picture of a data set, equal or nearly so for copies of other sizes and qualities.

It is the DCT hash of 64 bits ("pHash") as the package imagehash computes it, whose hexadecimal form is what lists of
hashes are exchanged in. Computed once for a data set's shards; what is made of it is the screening's business.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.request import Step, StepFolders
from tasks.tables import LEDGER_FILE, clear
from tasks.tars import SampleReader, Sharing, over_tars, samples_in

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from PIL.Image import Image

    from tasks.screening.near import Hashes, Places

HASH = Step(name="hash", kind="hashes", version=1)
HASHES_FILE = "hashes.parquet"

LEAST_DEVIATION = 2.0
"""Grey levels (of 255). A picture whose pixels deviate less is one flat area, and its hash would be that of noise."""
DRAFT_PIXELS = 64
"""A JPEG is decoded at the smallest eighth that has such sides: twice what the hash looks at."""


def hash_pictures(
    shards: Path, sets: Mapping[str, Path], *, bordered: bool, folders: StepFolders, sharing: Sharing
) -> None:
    """`hashes.parquet`: `key`, `split` and `hash` of every sample of `shards`, in order of shard and key.

    `hash` is null for text, for what is no picture, and for pictures of one flat area.

    Args:
        sets: the picture sets that the data set is about, set -> folder; nothing where its shards have its pictures.
        bordered: the pictures were padded to a square; the border is not looked at, so that what came with another
            border or none is found all the same.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    clear(folders.out)
    schema = pa.schema([("key", pa.string()), ("split", pa.string()), ("hash", pa.uint64())])
    work = partial(_hashes_in, sets, shards / LEDGER_FILE if bordered else None)
    with pq.ParquetWriter(folders.out / HASHES_FILE, schema, compression="zstd") as file:
        for columns in over_tars(work, sorted(shards.glob("*.tar")), sharing):
            file.write_table(pa.table(columns, schema=schema))


def _hashes_in(sets: Mapping[str, Path], ledger: Path | None, tar: Path) -> dict[str, list[Any]]:
    samples = samples_in(tar)
    shapes = shapes_of(ledger, [sample.key for sample in samples]) if ledger else {}
    found: dict[tuple[int | None, int], int | None] = {}
    with SampleReader(tar, sets) as opened:
        for sample in samples:
            place = sample.image_shard, sample.image[0]
            if place not in found:  # one picture may have many questions
                found[place] = hash_of(opened.picture(sample), shapes.get(sample.key))
        return {
            "key": [sample.key for sample in samples],
            "split": [json.loads(opened.text(sample))["split"] for sample in samples],
            "hash": [found[sample.image_shard, sample.image[0]] for sample in samples],
        }


def shapes_of(ledger: Path, keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Key -> width and height of the picture as fetched, for those of the keys that have a picture."""
    import pyarrow.parquet as pq

    wanted = [("key", "in", keys), ("width", ">", 0)]
    table = pq.read_table(ledger, columns=["key", "width", "height"], filters=wanted).to_pydict()
    return {key: (w, h) for key, w, h in zip(table["key"], table["width"], table["height"], strict=True)}


def hash_of(data: bytes, shape: tuple[int, int] | None) -> int | None:
    """The hash of an encoded picture, 0..2**64 - 1; None for what is no picture, or one of one flat area.

    Args:
        shape: width and height that the picture had before it was padded to a square; None if it was not.
    """
    import numpy as np
    from imagehash import phash

    from tasks.screening.pictures import PictureError, opened
    from tinygptv_core.image import DECODER_ERRORS, on_white

    try:
        image = opened(data)
        image.draft("L", (DRAFT_PIXELS, DRAFT_PIXELS))
        image.load()
        inside = without_border(image, shape) if shape else image
        grey = on_white(inside).convert("L")
    except (PictureError, *DECODER_ERRORS):  # whether it is a picture is not decided here
        return None
    if np.asarray(grey).std() < LEAST_DEVIATION:
        return None
    return int(str(phash(grey)), 16)


def without_border(image: "Image", shape: tuple[int, int]) -> "Image":
    """What lies in the middle of `image` in the shape (width, height), as large as fits."""
    width, height = shape
    scale = min(image.width / width, image.height / height)
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (image.width - across) // 2, (image.height - down) // 2
    return image.crop((left, top, left + across, top + down))


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """Pictures that have a hash.

    Attributes:
        places: of each its place among all samples of its data set.
        names: what to call it.
    """

    places: "Places"
    names: "pa.ChunkedArray"
    hashes: "Hashes"

    def only(self, kept: "NDArray[np.bool]") -> "Hashed":
        """Those where `kept` is true."""
        import pyarrow as pa

        return Hashed(places=self.places[kept], names=self.names.filter(pa.array(kept)), hashes=self.hashes[kept])

    def told(self, i: int, others: "Hashed", j: int) -> str:
        """In words, how near picture `i` is to picture `j` of the others."""
        bits = int(self.hashes[i] ^ others.hashes[j]).bit_count()
        return f"{bits} of 64 bits from {others.names[j].as_py()}"


def read_hashes(folder: Path, *, splits: Sequence[str] | None = None, without: Path | None = None) -> Hashed:
    """The pictures in a folder that `hash_pictures` wrote, called by their keys.

    Args:
        splits: only those of these splits.
        without: a table of drops; those in it are left out.
    """
    import numpy as np
    import pyarrow.parquet as pq
    from pyarrow.compute import field

    table = pq.read_table(folder / HASHES_FILE)
    wanted = field("hash").is_valid()
    if splits is not None:
        wanted &= field("split").isin(list(splits))
    if without is not None:
        wanted &= ~field("key").isin(pq.read_table(without, columns=["key"])["key"].combine_chunks())
    found = table.append_column("place", [np.arange(table.num_rows)]).filter(wanted)
    return Hashed(places=found["place"].to_numpy(), names=found["key"], hashes=found["hash"].to_numpy())


def listed_hashes(hashes: Iterable[str]) -> Hashed:
    """The hashes of a removal list, which has them in hex."""
    import numpy as np
    import pyarrow as pa

    listed = sorted(hashes)
    return Hashed(
        places=np.arange(len(listed)),
        names=pa.chunked_array([[f"the listed {text}" for text in listed]], type=pa.string()),
        hashes=np.array([int(text, 16) for text in listed], dtype=np.uint64),
    )


def together(pictures: Mapping[str, Hashed]) -> Hashed:
    """The pictures of several data sets, one after the other, called by data set and name."""
    import pyarrow as pa
    from pyarrow.compute import call_function

    def called(name: str, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        return call_function("binary_join_element_wise", [pa.scalar(name), keys, pa.scalar(" ")])

    return joined([replace(item, names=called(name, item.names)) for name, item in pictures.items()])


def joined(pictures: Sequence[Hashed]) -> Hashed:
    """Pictures of several origins, one after the other, called as they are there."""
    import numpy as np
    import pyarrow as pa

    return Hashed(
        places=np.concatenate([np.empty(0, np.int64), *(item.places for item in pictures)]),
        names=pa.chunked_array([chunk for item in pictures for chunk in item.names.chunks], type=pa.string()),
        hashes=np.concatenate([np.empty(0, np.uint64), *(item.hashes for item in pictures)]),
    )
