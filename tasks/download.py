"""What runs inside img2dataset's processes: its own reader, downloader, resizer and pool, guarded and strict.

`tasks.download_process` runs this, as a process of its own.
"""

import io
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from img2dataset.distributor import multiprocessing_distributor
from img2dataset.downloader import Downloader
from img2dataset.reader import Reader
from img2dataset.resizer import Resizer
from img2dataset.writer import WebDatasetSampleWriter

from tasks.fetch import DownloadSpec
from tasks.guard import Rules, install
from tasks.outcomes import ROW_COLUMN, finished_shards, to_retry
from tasks.pictures import PictureError, decoded, on_white
from tinygptv_core.plain import from_plain

SHARD_DIGITS = 5
JPEG_QUALITY = 95
# What img2dataset honours by default: a site's word that its pictures are not for training.
NOT_FOR_TRAINING = ["noai", "noimageai", "noindex", "noimageindex"]


class StrictResizer(Resizer):
    """Decodes the original strictly before img2dataset resizes it. Without a size it is kept as it came."""

    def __init__(self, image_size: int | None, resize_mode: str, max_bytes: int) -> None:
        mode = "no" if image_size is None else resize_mode
        super().__init__(image_size or 0, mode, resize_only_if_bigger=False, encode_quality=JPEG_QUALITY)
        self.keep_original, self.max_bytes = image_size is None, max_bytes

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: Any = None) -> tuple[Any, ...]:
        """The picture's bytes, width and height, its original width and height, and what is wrong with it."""
        img_stream.seek(0)
        data = img_stream.read()
        try:
            picture = decoded(data, self.max_bytes)
        except PictureError as error:
            return None, None, None, None, None, str(error)
        if self.keep_original:
            width, height = picture.image.size
            return data, width, height, width, height, None
        if picture.is_plain:
            return super().__call__(img_stream, blurring_bbox_list)
        plain = io.BytesIO()
        on_white(picture.image).save(plain, "BMP")
        return super().__call__(plain, blurring_bbox_list)


class GuardedDownloader(Downloader):
    """img2dataset's downloader, whose every process fetches by our rules and ends with its parent."""

    def __init__(self, rules: Rules, **settings: Any) -> None:
        super().__init__(**settings)
        self.rules = rules

    def download_shard(self, row: Any) -> None:
        """Fetch one shard."""
        install(self.rules)
        _end_with_parent()
        super().download_shard(row)


def _end_with_parent() -> None:
    """Let this worker die as soon as the process that started it has, once per process."""
    parent = multiprocessing.parent_process()
    name = "end with parent"
    if parent is not None and name not in {thread.name for thread in threading.enumerate()}:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), name=name, daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _end_with_pipe() -> None:
    """Kill this process group when the pipe at standard input closes: whoever started us is gone."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # nothing is ever written, so this returns at the end
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def download(spec: DownloadSpec, urls: Path, folder: Path) -> None:
    """Fetch the URLs of a parquet file (columns `row`, `url`) into `folder`; shards that are finished stay."""
    work = folder / "_tmp"
    work.mkdir(parents=True, exist_ok=True)
    done = set(finished_shards(folder))
    reader = Reader(
        str(urls), "parquet", "url", None, None, None, [ROW_COLUMN], spec.samples_per_shard, done, str(work)
    )
    downloader = GuardedDownloader(
        spec.rules,
        sample_writer_class=WebDatasetSampleWriter,
        resizer=StrictResizer(spec.image_size, spec.resize_mode, spec.rules.max_bytes),
        thread_count=spec.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=reader.column_list,
        timeout=spec.timeout_seconds,
        number_sample_per_shard=spec.samples_per_shard,
        oom_shard_count=SHARD_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=NOT_FOR_TRAINING,
    )
    shards = -(-pq.read_metadata(urls).num_rows // spec.samples_per_shard) - len(done)
    if shards > 1 and spec.processes > 1:
        multiprocessing_distributor(min(shards, spec.processes), downloader, reader, None, 1)
    else:  # a pool would take longer to start than to do this
        for shard in reader:
            downloader(shard)


def read_urls(path: Path) -> Iterator[tuple[str, str]]:
    """The rows (key, url) of a parquet file with columns `row` and `url`."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[ROW_COLUMN, "url"]):
            yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def main(spec_file: str) -> None:
    """Fetch what the spec says, then once more what may have failed in passing."""
    _end_with_pipe()
    spec = from_plain(DownloadSpec, json.loads(Path(spec_file).read_text()), "SPEC.json")
    download(spec, spec.urls, spec.first)
    again = list(to_retry(spec.first, read_urls(spec.urls), spec.samples_per_shard))
    if again:
        rows, urls = zip(*again, strict=True)
        pq.write_table(pa.table({ROW_COLUMN: list(rows), "url": list(urls)}), spec.again)
        download(spec, spec.again, spec.second)
    spec.done.touch()
