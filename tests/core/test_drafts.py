"""Files that become another as a whole."""

import os
from pathlib import Path

from tinygptv_core.drafts import write_whole


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    path, fsync, synced = tmp_path / "file", os.fsync, []
    path.write_text("old")

    def watched(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").read_text(), path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", watched)
    write_whole(path, "new")
    assert synced == [("new", "old")]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
