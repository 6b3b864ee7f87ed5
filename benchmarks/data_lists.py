"""Lists made into tables and tables filtered, as `benchmarks/data.py` measures it."""

import csv
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.data_case import Case
from tasks.filter import filter_rows
from tasks.filtering.removals import NO_REMOVALS
from tasks.request import StepFolders
from tasks.rows import rows
from tinygptv_core.columns import caption_turns, clean_caption
from tinygptv_core.presets import PRETRAINING
from tinygptv_core.recipe import Recipe

LIST_FILE, CSV_FILE, KEPT_FILE = "list.json", "list.csv", "kept.csv"
HOSTS = 5_000
REPEATED = 0.02
WORDS = (
    "a man woman dog house car with in on the of and red blue white black standing holding sitting next to table "
    "background illustration photo view old new small large city beach park two people vector isolated"
).split()
BLIP = Recipe(
    version=1, source="list", how="url", licence="none", citation="none", picture="url", turns=caption_turns
)  # fmt: skip


def write_list(folder: Path, count: int) -> None:
    """One JSON array in BLIP's form: short captions in lower case, two URLs of a hundred repeated."""
    draw = random.Random(7)
    with (folder / LIST_FILE).open("w") as file:
        for position in range(count):
            number = draw.randrange(position) if position and draw.random() < REPEATED else position
            url = (
                f"https://cdn{number * 7919 % HOSTS}.example.com/images/{number * 2654435761 % 2**32:08x}/{number}.jpg"
            )
            caption = " ".join(draw.choices(WORDS, k=draw.randrange(5, 16)))
            file.write(("[" if position == 0 else ", ") + json.dumps({"caption": caption, "url": url}))
        file.write("]")


def convert_conventionally(folder: Path) -> None:
    """The whole list as Python objects, then a CSV."""
    records = json.loads((folder / LIST_FILE).read_bytes())
    _write_csv(folder / CSV_FILE, records)


def convert_and_clean_conventionally(folder: Path) -> None:
    """The same, with each caption as the model is to read it."""
    records = json.loads((folder / LIST_FILE).read_bytes())
    for record in records:
        record["caption"] = clean_caption(record["caption"])
    _write_csv(folder / CSV_FILE, records)


def _write_csv(path: Path, records: list[Mapping[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["url", "caption"])
        writer.writeheader()
        writer.writerows(records)


def step_folders_in(folder: Path, name: str) -> StepFolders:
    """Folders for a step to write to."""
    folders = StepFolders(out=folder / name / "out", scratch=folder / name / "scratch", notes=folder / name / "notes")
    for path in (folders.out, folders.scratch, folders.notes):
        path.mkdir(parents=True, exist_ok=True)
    return folders


def convert(folder: Path) -> None:
    """Our step `rows`: a table with keys, cleaned captions as turns, drops and counts."""
    rows(BLIP, "list", folder / LIST_FILE, step_folders_in(folder, "rows"))


def write_table(folder: Path, count: int) -> None:
    """The list as our table and as a CSV."""
    write_list(folder, count)
    convert_and_clean_conventionally(folder)
    convert(folder)


def filter_conventionally(folder: Path) -> None:
    """The CSV row by row, by the same rules, with a set of the URLs that were seen."""
    rules, seen = PRETRAINING.filter, set[str]()
    with (folder / CSV_FILE).open(newline="") as file, (folder / KEPT_FILE).open("w", newline="") as kept:
        writer = csv.DictWriter(kept, ["url", "caption"])
        writer.writeheader()
        for record in csv.DictReader(file):
            parts, words = urlsplit(record["url"]), len(record["caption"].split())
            is_allowed = parts.scheme in rules.schemes and parts.hostname
            if is_allowed and rules.min_words <= words <= rules.max_words and record["url"] not in seen:
                seen.add(record["url"])
                writer.writerow(record)


def filter_table(folder: Path) -> None:
    """Our step `filter`, with its drops, counts and overview."""
    filter_rows(PRETRAINING.filter, BLIP, folder / "rows" / "out", step_folders_in(folder, "filter"), NO_REMOVALS)


def _case(prepare: Callable[[Path, int], None], ways: Mapping[str, Callable[[Path], None]], **goals: str) -> Case:
    return Case(unit="rows", units=5_000_000, prepare=prepare, ways=ways, goals=goals)


CONVERSION = _case(
    write_list,
    {
        "json.load + csv": convert_conventionally,
        "json.load + csv, captions cleaned": convert_and_clean_conventionally,
        "ours": convert,
    },
    ours="4.5 x, 300 MB",
)
FILTERING = _case(
    write_table,
    {"csv, row by row": filter_conventionally, "ours": filter_table},
    ours="1,000,000 a second on 2 cores",
)
