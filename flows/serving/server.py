"""Prefect's server for one command, where nobody has named another.

Prefect would start one by itself, but imports all of its server before it does; here it starts beside what the
command imports. It listens on loopback, keeps its database in the home and ends with the command, killed or not.

python -m flows.serving.server SOCKET PARENT
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import configure_prefect, only_pages_of
from tasks.lease import lease
from tasks.tied import tie_to
from tinygptv_core.importing import importing

if TYPE_CHECKING:
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

HOST = "127.0.0.1"
START_SECONDS = 120.0
END_SECONDS = 5.0
POLL_SECONDS = 0.05
CHOSEN = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE")
FILES = {"prefect.toml": "", ".env": "prefect", "pyproject.toml": "[tool.prefect"}
"""What Prefect reads in the current folder -> the words without which it is not about Prefect."""
SERVER_SETTINGS = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # A run has no automation and no block; a server that a person starts on the same home has both again.
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
}


def start_prefect_server(home: Path) -> Callable[[], None]:
    """Settle Prefect, and start a server of its that ends with this process. Call before Prefect is imported.

    Where a person's own settings may name a server, they stand, and Prefect does what they say.

    Returns:
        What waits until the server answers; it raises RuntimeError when it does not.
    """
    is_settled = "prefect" in sys.modules or _is_chosen()
    configure_prefect(home)
    if is_settled:
        return lambda: None
    log = home / "prefect" / "server.log"
    opening = ExitStack()  # two servers at once that make the database or bring it up to date get in each other's way
    opening.enter_context(lease(home / "prefect" / "opening.lease", lambda text: None))
    # The server is handed a socket that is bound already: a port that is only known to be free may be taken first.
    with log.open("a") as messages, socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.serving.server", str(listening.fileno()), str(os.getpid())],
            env={**os.environ, **SERVER_SETTINGS, **only_pages_of(port)},
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; the server is told last
        )
    atexit.register(_end, server)  # which is called after what Prefect registers, when all is told to the server
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"

    def wait() -> None:
        with opening:
            _wait(server, port, log)

    return wait


def _is_chosen() -> bool:
    """Whether a person has settings of their own that may name a server."""
    files = ((Path(name), words) for name, words in FILES.items())
    return any(name in os.environ for name in CHOSEN) or any(
        path.is_file() and words in path.read_text(errors="replace").lower() for path, words in files
    )


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not _answers(port):
        if server.poll() is not None:
            raise RuntimeError(f"Prefect's server ended with status {server.returncode}; its messages are in {log}")
        if time.monotonic() > end:
            raise RuntimeError(f"Prefect's server did not answer in {START_SECONDS:.0f} s; its messages are in {log}")
        time.sleep(POLL_SECONDS)


def _answers(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=START_SECONDS)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def served() -> "TrustedHostMiddleware":
    """Prefect's server, for whom calls it by an address of this machine.

    A page in a browser may let a name of its own come to mean this machine, and then ask as the server's own page does
    (DNS rebinding).
    """
    with importing():
        from fastapi.middleware.trustedhost import TrustedHostMiddleware
        from prefect.server.api.server import create_app

    return TrustedHostMiddleware(create_app(), allowed_hosts=[HOST, "localhost"])


def main(arguments: Sequence[str]) -> None:
    """Serve on the open `SOCKET`, by its number, until the process `PARENT`, which started this one, ends."""
    number, parent = map(int, arguments)
    if not tie_to(parent):
        return
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(served, factory=True, log_level="error"))
    server.run([socket.socket(fileno=number)])


if __name__ == "__main__":
    main(sys.argv[1:])
