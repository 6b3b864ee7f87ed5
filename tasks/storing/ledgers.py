"""The rows behind a model: every ledger that its chain has, read in columns."""

from collections.abc import Iterator, Sequence
from typing import Any

from tasks.storing.lineage import Link
from tasks.tables import DROPPED_FILE, GROUP_ROWS, KEPT, LEDGER_FILE

COLUMNS = ("key", "url", "sha256", "fate")


def urls_behind(links: Sequence[Link]) -> Iterator[dict[str, Any]]:
    """`{"data", "key", "url", "sha256", "fate"}` of every row, in the order of the ledgers; `fate` is "ok" or the
    reason of the drop, in fetch or in the screen."""
    import pyarrow.parquet as pq

    for link in links:
        ledger = link.folder / LEDGER_FILE if link.folder else None
        if ledger is None or not ledger.is_file():
            continue
        reasons = _screened(links, link)
        with pq.ParquetFile(ledger) as file:
            for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=list(COLUMNS)):
                for key, url, sha256, fate in zip(*(batch.column(name).to_pylist() for name in COLUMNS), strict=True):
                    fate = reasons.get(key, KEPT) if fate == KEPT else fate
                    yield {"data": link.group, "key": key, "url": url, "sha256": sha256, "fate": fate}


def gone(links: Sequence[Link]) -> list[Link]:
    """The shards of a chain whose ledgers are not on this home any more, as far as their steps say."""
    return [link for link in links if link.folder is None and link.step.endswith(("/fetch", "/gather"))]


def _screened(links: Sequence[Link], shards: Link) -> dict[str, str]:
    """Key -> why the index that the chain reads these shards with leaves a sample out."""
    import pyarrow.parquet as pq

    for link in links:
        if link.kind == "index" and link.folder and link.group == shards.group:
            dropped = pq.read_table(link.folder / DROPPED_FILE, columns=["key", "reason"])
            return dict(zip(*(dropped[name].to_pylist() for name in ("key", "reason")), strict=True))
    return {}
