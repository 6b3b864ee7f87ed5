"""Scores of every picture with its text, by a function of the user's own: of image-text similarity, of safety ...

The function is `(pictures: list[bytes], texts: list[str]) -> list[float]`: encoded pictures as the shards hold them,
and what is said of each. What score a sample needs to stay is the screening's business.
"""

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tasks.request import Step, StepFolders
from tasks.tables import clear
from tasks.tars import SampleLocation, SampleReader, Sharing, over_tars, samples_in
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.user_code import FAILURES, line_defined, line_raised, number_in

RATE = Step(name="rate", kind="ratings", version=1)
RATINGS_FILE = "ratings.parquet"
SPREAD_FILE = "scores.txt"

Score = Callable[[list[bytes], list[str]], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Rating:
    """A scorer at work: the function `name` in `file`, which is given `batch` samples at once."""

    file: Path
    name: str
    batch: int


def rate_pictures(
    rating: Rating, shards: Path, sets: Mapping[str, Path], folders: StepFolders, sharing: Sharing
) -> None:
    """`ratings.parquet`: `key` and `score` of every sample of `shards`, in order of shard and key.

    `score` is null for text, and for what does not begin as a picture. Batches end with their tar. How the scores lie
    is told in the notes.

    Args:
        sets: the picture sets that the data set is about, set -> folder; nothing where its shards have its pictures.

    Raises:
        ConfigError: the function is not there, fails, or does not return a finite number for each picture.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    clear(folders.out)
    loaded(rating.file, rating.name)  # a mistake in the file is found before processes start
    schema = pa.schema([("key", pa.string()), ("score", pa.float64())])
    with pq.ParquetWriter(folders.out / RATINGS_FILE, schema, compression="zstd") as file:
        for columns in over_tars(partial(_ratings_in, rating, sets), sorted(shards.glob("*.tar")), sharing):
            file.write_table(pa.table(columns, schema=schema))
    (folders.notes / SPREAD_FILE).write_text(f"{rating.name}: {spread(folders.out)}\n")


def _ratings_in(rating: Rating, sets: Mapping[str, Path], tar: Path) -> dict[str, list[Any]]:
    from tasks.screening.pictures import opens

    samples = samples_in(tar)
    scores: dict[str, float] = {}
    waiting: list[tuple[SampleLocation, bytes, str]] = []
    with SampleReader(tar, sets) as opened:
        for sample in samples:
            picture = opened.picture(sample)
            if picture and opens(picture):
                waiting.append((sample, picture, said(opened.text(sample))))
            if len(waiting) == rating.batch:
                scores |= _scores(rating, waiting)
                waiting = []
    if waiting:
        scores |= _scores(rating, waiting)
    return {"key": [sample.key for sample in samples], "score": [scores.get(sample.key) for sample in samples]}


def said(text: bytes) -> str:
    """All that is said in a sample's turns, a line each."""
    return "\n".join(words for _, words, *_ in json.loads(text)["turns"])


def _scores(rating: Rating, batch: list[tuple[SampleLocation, bytes, str]]) -> dict[str, float]:
    keys = [sample.key for sample, _, _ in batch]
    where = f"{rating.name} of {rating.file}, given the {len(keys)} samples {keys[0]} to {keys[-1]},"
    function = loaded(rating.file, rating.name)
    written = line_defined(function)
    try:
        returned = function([p for _, p, _ in batch], [t for _, _, t in batch])
        is_one_text_or_map = isinstance(returned, str | bytes | bytearray | Mapping)
        given = list(returned) if isinstance(returned, Iterable) and not is_one_text_or_map else None
    except FAILURES as error:
        line = line_raised(error, __file__)
        raise ConfigError(f"{where} failed: {type(error).__name__}: {error} ({line})") from error
    if given is None:
        raise ConfigError(f"{where} returned {returned!r:.80}; it must return a number for each ({written})")
    if len(given) != len(keys):
        raise ConfigError(f"{where} returned {len(given)} scores; it must return one for each ({written})")
    scores = {key: number_in(score) for key, score in zip(keys, given, strict=True)}
    for (key, score), one in zip(scores.items(), given, strict=True):
        if not math.isfinite(score):
            raise ConfigError(f"{where} returned {one!r:.80} for {key}; a score must be a finite number ({written})")
    return scores


def spread(ratings: Path) -> str:
    """How the scores in that folder lie, by which bounds are chosen."""
    import numpy as np
    import pyarrow.parquet as pq

    scores = pq.read_table(ratings / RATINGS_FILE)["score"].drop_null().to_numpy()
    if not len(scores):
        return "none has a score"
    least, median, most = np.quantile(scores, (0, 0.5, 1)).tolist()
    return f"least {least:g}, median {median:g}, most {most:g}, of {len(scores)}"


@cache
def loaded(file: Path, name: str) -> Score:
    """The function `name` of a user's Python file, which is run: once in each process.

    Raises:
        ConfigError: there is no such file or function, or the file cannot be run.
    """
    spec = importlib.util.spec_from_file_location(f"scorers_in_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"scorer {name}: there is no Python file {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        raise ConfigError(f"scorer {name}: {file} cannot be run: {type(error).__name__}: {error}") from error
    there = [key for key, item in vars(module).items() if callable(item)]
    if name not in there:
        raise ConfigError(f"scorer {name}: in {file} " + unknown("function ", name, sorted(there)))
    return getattr(module, name)
