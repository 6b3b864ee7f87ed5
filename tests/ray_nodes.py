"""A Ray cluster as a person starts it, one command for each machine; here all of them are addresses of loopback."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from flows.serving.ending import end_trees
from tasks.training.cluster import BOOTSTRAP, SETTINGS
from tests.ports import kept_port

HEAD, SECOND = "127.0.0.2", "127.0.0.3"  # for 127.0.0.1 Ray takes the address that others see
OBJECT_STORE_BYTES = 80_000_000
PATIENCE_SECONDS = 240


class Nodes:
    """The nodes of a cluster, in a folder of their own; they end with this.

    Attributes:
        address: of the cluster.
        environment: what its commands are told, and whoever joins it.
    """

    def __init__(self, home: Path, **settings: str):
        """A cluster without a node yet; `home` is the HOME of its processes."""
        (home / "ray_bootstrap_config.yaml").write_text(BOOTSTRAP)
        self._folder = Path(os.path.realpath("/tmp")) / f"tinygptv-test-nodes-{os.getpid()}"  # a socket's path is short
        self._folder.mkdir()
        self._running = list[subprocess.Popen[bytes]]()
        self._port = kept_port()
        self.address = f"{HEAD}:{self._port}"
        code = {"PYTHONPATH": str(Path(__file__).parents[1])}
        self.environment = {**SETTINGS, **code, "HOME": str(home), "GLOO_SOCKET_IFNAME": "lo", **settings}

    def start_head(self, *, cores: int) -> None:
        """Start the first node."""
        head = ["--head", f"--port={self._port}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        self._start(HEAD, cores, *head)

    def start_second(self, *, cores: int) -> None:
        """Start another, which joins the first."""
        self._start(SECOND, cores, f"--address={self.address}")

    def _start(self, node: str, cores: int, *arguments: str) -> None:
        """Start a node, and wait until it is there: the next one asks it."""
        log = self._folder / f"{node}.txt"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={node}"]
        command += [f"--num-cpus={cores}", f"--object-store-memory={OBJECT_STORE_BYTES}", *arguments]
        waits = {"RAY_gcs_server_port_wait_time_s": str(PATIENCE_SECONDS)}  # Ray's 20 are few on a busy machine
        with log.open("wb") as said:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self.environment, **waits},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._running.append(process)
        end = time.monotonic() + PATIENCE_SECONDS
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)

    def processes(self) -> list[psutil.Process]:
        """All that the nodes started."""
        return [child for one in self._running for child in psutil.Process(one.pid).children(recursive=True)]

    def end(self) -> None:
        """End them."""
        end_trees([one.pid for one in self._running])
        for one in self._running:
            one.wait()
        shutil.rmtree(self._folder)
