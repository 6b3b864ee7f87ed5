"""A folder served over HTTP on loopback, so that `nano`'s own pictures are fetched as any others are."""

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Server(ThreadingHTTPServer):
    # The standard's queue of five makes a fetching pool wait a second for each connection that is turned away.
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    """Files and nothing else: no listing, and nothing written to the terminal."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: fetch keeps a ledger of its own."""

    def list_directory(self, path: Any) -> None:
        self.send_error(404)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of `folder` for as long as the context lasts; yields "127.0.0.1:PORT"."""
    with _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
