"""A server on loopback for tests of fetching, and tables of its URLs."""

import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


class Handler(BaseHTTPRequestHandler):
    """Counts who asks for what. A subclass answers; each server has one of its own."""

    asked: Counter

    def do_GET(self):
        self.asked[self.path[1:]] += 1
        self.respond(self.path[1:])

    def respond(self, name):
        raise NotImplementedError

    def answer(self, status, body, **headers):
        self.send_response(status)
        for header, value in ({"Content_Length": len(body)} | headers).items():
            self.send_header(header.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        """Nothing: that clients hang up is what is tested."""


@contextmanager
def serving(handler: type[Handler], address: str = "127.0.0.1", **fields) -> Iterator[tuple[type[Handler], str]]:
    """A server of its own with a class of its own, which has `fields`; and its URL."""
    own = type("Own", (handler,), {"asked": Counter(), **fields})
    with Server((address, 0), own) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield own, f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()


def picture(kind, seed=0, size=(60, 40), mode="RGB"):
    """The bytes of a picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert(mode).save(file, kind)
    return file.getvalue()


def palette_png(colours: int = 4, clear: int = 0) -> bytes:
    """A PNG of one pixel with a palette of so many colours, of which the first `clear` are transparent.

    No encoder writes one without colours, or with more transparent ones than there are.
    """
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 0)), (b"PLTE", bytes(3 * colours))]
    chunks += [(b"tRNS", bytes(clear)), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
        if data or name == b"IEND"
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
