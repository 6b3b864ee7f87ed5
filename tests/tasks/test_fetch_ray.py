"""Fetching on a Ray cluster, here one of this machine: the same shards, and the guard in its workers too."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.fetching.downloads import DownloadSpec, shared
from tasks.fetching.guard import Rules
from tasks.tables import read_counts
from tasks.training.cluster import import_ray, ray_cluster
from tests.tasks.fetches import SETTINGS, fetch, step_folders, table_of
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


class Slow(Handler):
    """Counts how many ask at a time."""

    open, most, lock = 0, 0, threading.Lock()

    def respond(self, name):
        with self.lock:
            type(self).open += 1
            type(self).most = max(self.most, self.open)
        time.sleep(0.3)
        with self.lock:
            type(self).open -= 1
        self.answer(200, picture("JPEG", int(name)))


@pytest.fixture(scope="module")
def connections(tmp_path_factory):
    """The file that notes every connection attempt of the cluster's processes."""
    return tmp_path_factory.mktemp("watch") / "connections.txt"


@pytest.fixture(scope="module")
def address(tmp_path_factory, connections):
    """Of a cluster that has three cores."""
    import_ray(None)  # with the settings that keep it on loopback, which Ray reads when it is imported
    import ray

    start = ray.init
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(WATCH), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("WATCH_FILE", str(connections))
        patch.setattr(ray, "init", lambda **settings: start(**settings | {"num_cpus": 3}))
        with ray_cluster(tmp_path_factory.mktemp("ray"), None):
            yield ray.get_runtime_context().gcs_address


def test_a_host_gets_no_more_requests_at_a_time_than_it_may_however_many_cores_fetch(tmp_path, address):
    limits = replace(LIMITS, samples_per_shard=2, per_host=2)
    with serving(Slow) as (web, url):
        table = table_of(tmp_path / "table", "url", [f"{url}/{number}" for number in range(12)])
        fetch(table, limits, step_folders(tmp_path / "site"), ray_address=address)
    assert web.asked.total() == 12 and web.most <= 2


@pytest.mark.parametrize(("cores", "per_host", "fetch", "each"), [(1, 16, 1, 16), (3, 16, 3, 5), (64, 16, 16, 1)])
def test_processes_share_what_a_host_may_get(cores, per_host, fetch, each):
    rules = Rules(allow_hosts=(), hosts={}, total_seconds=1, max_bytes=1, per_host=per_host)
    limits = {"image_size": 64, "resize_mode": "border", "timeout_seconds": 1, "samples_per_shard": 1, "threads": 1}
    spec = shared(DownloadSpec(jobs=(), processes=2, rules=rules, ray_address=None, **limits), cores)
    assert (spec.processes, spec.rules.per_host) == (fetch, each)


def test_a_cluster_fetches_the_same_shards_and_goes_nowhere_else(tmp_path, address, connections):
    with serving(Web) as (first, url), serving(Web, "127.0.0.2") as (visited, away):
        first.away = f"{away}/1"
        table = table_of(tmp_path / "table", "url", [f"{url}/{name}" for name in (*range(7), "leave")])
        here, there = step_folders(tmp_path / "here"), step_folders(tmp_path / "there")
        fetch(table, LIMITS, here, processes=1)
        asked = first.asked.total()
        fetch(table, LIMITS, there, ray_address=address)
    assert read_counts(there.out)["dropped"] == {"refused_address": 1} and not visited.asked
    assert first.asked.total() == 2 * asked
    assert digest_of(members_of(there.out)) == digest_of(members_of(here.out))
    looked_up = [line for line in connections.read_text().splitlines() if "connect" not in line]
    assert looked_up and not [line for line in looked_up if "pypi" in line]  # nobody asks for a newer version
