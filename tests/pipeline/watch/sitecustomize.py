"""Put on PYTHONPATH by a test: every Python process that starts writes down where it tries to connect to."""

import os
import sys


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        return
    target = arguments[1] if event == "socket.connect" else arguments[0]
    with open(os.environ["WATCH_FILE"], "a") as file:
        file.write(f"{event} {target!r}\n")


if "WATCH_FILE" in os.environ:
    sys.addaudithook(_watch)
