"""Fetching on a Ray cluster, here one of this machine: the same shards, and the guard in its workers too."""

import os
from dataclasses import replace
from pathlib import Path

from tasks.cluster import ray_cluster
from tasks.tables import read_counts
from tests.tasks.fetching import SETTINGS, fetch, site, table_of
from tests.tasks.web import Handler, picture, serving
from tinygptv_core.artifact import digest_of, members_of

LIMITS = replace(SETTINGS, timeout_seconds=10, total_seconds=20, samples_per_shard=4)


class Web(Handler):
    away = ""

    def respond(self, name):
        if name == "leave":
            return self.answer(302, b"", Location=self.away)
        return self.answer(200, picture("JPEG", int(name)))


WATCH = Path(__file__).parents[1] / "pipeline" / "watch"


def test_a_cluster_fetches_the_same_shards_and_goes_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(WATCH), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("WATCH_FILE", str(tmp_path / "connections.txt"))
    with serving(Web) as (first, url), serving(Web, "127.0.0.2") as (visited, away):
        first.away = f"{away}/1"
        table = table_of(tmp_path / "table", "url", [f"{url}/{name}" for name in (*range(7), "leave")])
        here, there = site(tmp_path / "here"), site(tmp_path / "there")
        fetch(table, LIMITS, here, processes=1)
        asked = first.asked.total()
        with ray_cluster(tmp_path, None):
            import ray

            fetch(table, LIMITS, there, ray_address=ray.get_runtime_context().gcs_address)
    assert read_counts(there.out)["dropped"] == {"refused_address": 1} and not visited.asked
    assert first.asked.total() == 2 * asked
    assert digest_of(members_of(there.out)) == digest_of(members_of(here.out))
    looked_up = [line for line in (tmp_path / "connections.txt").read_text().splitlines() if "connect" not in line]
    assert looked_up and not [line for line in looked_up if "pypi" in line]  # nobody asks for a newer version
