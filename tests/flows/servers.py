"""`tinygptv up` as a person has it, and a listener that is told how runs end."""

import json
import os
import subprocess
import sys
import threading
import time
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.ports import kept_port

PATIENCE_SECONDS = 240


def listening(told):
    """A server of a person's own that is told how runs end."""

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Servers:
    """A command `tinygptv up` at work, and what it answers."""

    def __init__(self, home: Path, *options: str, ports: tuple[int, int] | None = None):
        self.home, self.ports = home, ports or (kept_port(), kept_port())
        self.said, self.told = home.with_name("said.txt"), []
        self.listener = listening(self.told)
        ports = ["--port", str(self.ports[0]), "--mlflow-port", str(self.ports[1])]
        notify = f"json://127.0.0.1:{self.listener.server_port}/"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "up", "--home", home, "--notify", notify, *ports, *options],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                stdout=said,
                stderr=said,
            )

    def wait_until(self, condition):
        end = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.5)
        return found

    @cached_property
    def _prefect(self):
        from prefect.client.base import PrefectHttpxSyncClient

        # It asks again where the server is too busy to answer; a request that is only slow must not be made twice.
        address = f"http://127.0.0.1:{self.ports[0]}/api/"
        return PrefectHttpxSyncClient(base_url=address, timeout=PATIENCE_SECONDS, raise_on_all_errors=False)

    def ask(self, path, body=None, method=None):
        """(status, answer) of Prefect's API."""
        answer = self._prefect.request(method or ("GET" if body is None else "POST"), path, json=body)
        return answer.status_code, answer.json() if answer.content else None

    def start(self, deployment, parameters):
        _, found = self.ask(f"deployments/name/{deployment}/{deployment}")
        return self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})

    def ended(self, run):
        state = self.ask(f"flow_runs/{run['id']}")[1]["state"]
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    def wait_until_up(self):
        self.wait_until(lambda: "Ctrl-C" in self.said.read_text())

    def end(self):
        self.process.terminate()
        self.process.wait(60)
        self._close()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self):
        self.listener.shutdown()
        self.listener.server_close()
