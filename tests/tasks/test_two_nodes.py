"""A Ray cluster of two nodes, here both on loopback, that lets in who has its token; training goes over both."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from tasks.train import ray_workers
from tasks.training.cluster import ray_cluster
from tests.core.test_train import losses_of, quiet, summary_of
from tests.core.tiny_run import OPTIONS, elsewhere, tiny_spec
from tests.ray_nodes import HEAD, SECOND, Nodes
from tinygptv_core.train import train

pytestmark = pytest.mark.long

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    nodes = Nodes(tmp_path_factory.mktemp("home"), **settings)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in nodes.environment.items():
            patch.setenv(name, value)
        try:
            nodes.start_head(cores=1)
            nodes.start_second(cores=1)
            yield nodes
        finally:
            nodes.end()


def test_a_run_goes_over_both_nodes_to_the_losses_of_one_process(nodes, tmp_path):
    one = tiny_spec(tmp_path / "one")
    train(one, 0, 1, quiet)
    spec = replace(elsewhere(one, tmp_path / "two"), options=replace(OPTIONS, processes=2))
    at = []
    with ray_cluster(tmp_path, nodes.address):
        _wait_for_both()
        with ray_workers(tmp_path, spec.options) as workers:
            workers.train(spec, lambda done, total, text: at.extend(_nodes_that_train(nodes)))
    assert summary_of(spec)["world_size"] == 2
    assert set(at) == {HEAD, SECOND}
    assert [loss for _, loss in losses_of(spec)] == pytest.approx([loss for _, loss in losses_of(one)], abs=1e-6)
    found, wanted = (load_file(run.out / "trainable.safetensors") for run in (spec, one))
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < 1e-6


def _wait_for_both() -> None:
    import ray

    end = time.monotonic() + 60
    while ray.cluster_resources().get("CPU") != 2 and time.monotonic() < end:
        time.sleep(0.1)


def _nodes_that_train(nodes: Nodes) -> set[str]:
    """The address of the raylet above each training process."""
    return {
        word.partition("=")[2]
        for process in nodes.processes()
        if "RayTrainWorker" in " ".join(process.cmdline()) and (above := process.parent())
        for word in above.cmdline()
        if word.startswith("--node_ip_address=")
    }


JOIN = """
import sys
from tasks.training.cluster import connect
from tinygptv_core.plain import ConfigError
try:
    connect(sys.argv[1])
    print("it is let in")
except ConfigError as error:
    print(error)
"""


def test_only_who_has_its_token_is_let_in(nodes):
    """In processes of their own: a process reads its token once."""
    keys = ({}, {"RAY_AUTH_TOKEN": ""}, {"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"})
    joining = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, nodes.address],
            env={**os.environ, **key}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for key in keys
    ]  # fmt: skip
    owner, *others = [process.communicate(timeout=120)[0] for process in joining]
    assert owner == "it is let in\n"
    for said in others:
        assert said.startswith(f"no Ray cluster answers at {nodes.address}: ")
        assert said.endswith("set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as they are on its machines\n")
