"""What tests of fetching share: tables, folders, and a fetch whose segments lie in a store beside it."""

import json

from tasks.build import Store
from tasks.fetch import FetchOptions
from tasks.request import StepFolders
from tasks.segments import FetchTarget, SegmentStore, fetch_urls
from tasks.tables import TableRow, TableWriter
from tinygptv_core.artifact import Artifact
from tinygptv_core.settings import Fetch

SETTINGS = Fetch(
    image_size=64, resize_mode="border", timeout_seconds=2, total_seconds=4, max_bytes=50_000, samples_per_shard=5
)


def step_folders(folder, forced=False):
    made = StepFolders(out=folder / "out", scratch=folder / "scratch", notes=folder / "notes", forced=forced)
    for path in (made.out, made.scratch, made.notes):
        path.mkdir(parents=True, exist_ok=True)
    return made


def table_of(folder, how, pictures):
    """A table with a row for each picture, by "url" or "file"; None is text alone."""
    folder.mkdir(parents=True)
    with TableWriter(folder / "rows.parquet", TableRow) as writer:
        for number, name in enumerate(pictures):
            url, file = (name, None) if how == "url" else (None, name)
            turns = json.dumps([["assistant", f"picture {number}"]])
            writer.write(TableRow(key=f"{number:09d}", url=url, file=file, turns=turns, split=None, group="a"))
    counts = {"rows": len(pictures), "kept": len(pictures), "dropped": {}}
    (folder / "counts.json").write_text(json.dumps(counts))
    return folder


def options(progress=lambda done, total, text: None, **changes):
    settings = {"allow_hosts": ("127.0.0.1",), "hosts": {}, "processes": 2, "threads": 4, "ray_address": None}
    return FetchOptions(**settings | {"progress": progress} | changes)


def fetch(table, settings, place, *, wanted=None, store=None, **changes):
    """Fetch from URLs; the segments are kept in `store`, or beside `place`."""
    asked = FetchTarget(name="web", settings=settings, pictures=wanted, allowed={})
    segment_store = SegmentStore(store=Store(store or place.out.parent / "store"), noted={"run": "r", "time": 1.0})
    fetch_urls(asked, Artifact(kind="table", digest="0" * 64, path=table), options(**changes), place, segment_store)
