"""A small page on loopback: a picture and a question, and the answers of several models side by side.

The page sends JSON, which no other site's page may send here unasked, and only requests that name this machine are
answered, so that a name which somebody points at loopback opens nothing. Texts are shown as text, never as markup.
"""

import base64
import binascii
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

HOST = "127.0.0.1"
LOCAL = (HOST, "localhost")
MOST_PICTURE_BYTES = 20_000_000
MOST_BODY_BYTES = MOST_PICTURE_BYTES * 4 // 3 + 100_000
"""Base64 takes four bytes for three; the rest is for the question."""
MOST_QUESTION_CHARACTERS = 2_000
READ_SECONDS = 30.0

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>tinygptv</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; }
img { image-orientation: none; max-width: 20em; max-height: 20em; display: block; margin: 1em 0; }
input[type=text] { width: 30em; max-width: 100%; }
th { text-align: left; padding-right: 1.5em; vertical-align: top; }
#error { color: #a00; }
</style>
<h1>tinygptv</h1>
<form>
<p><input type="file" accept="image/*" required aria-label="picture">
<p><input type="text" required aria-label="question" placeholder="what colour is the circle?"> <button>Ask</button>
</form>
<img hidden alt="the picture that is asked about"><p id="error" role="alert"></p><table></table>
<script>
const [form, image, error, table] = ["form", "img", "#error", "table"].map(x => document.querySelector(x));
const [file, question] = form.querySelectorAll("input");
const read = blob => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(blob);
});
file.onchange = async () => { image.src = await read(file.files[0]); image.hidden = false; };
form.onsubmit = async event => {
  event.preventDefault();
  error.textContent = "";
  table.replaceChildren();
  try {
    const picture = (await read(file.files[0])).split(",")[1];
    const answer = await fetch("/ask", { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ image: picture, question: question.value }) });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    for (const [model, text] of Object.entries(told)) {
      const row = table.insertRow();
      row.append(Object.assign(document.createElement("th"), { textContent: model }));
      row.insertCell().textContent = text;
    }
  } catch (problem) { error.textContent = problem.message; }
};
</script>
"""


class AnswerFunction(Protocol):
    """A model that can be asked."""

    def __call__(self, picture: bytes, question: str) -> str:
        """The answer."""
        ...


class RequestRefusedError(Exception):
    """A request that gets no answer: the status, and why in words."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_SECONDS

    def __init__(self, models: Mapping[str, AnswerFunction], turn: threading.Lock, *args: Any):
        self._models, self._turn = models, turn
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: who asks sees the answer."""

    def do_GET(self) -> None:
        self._answer(self._page)

    def do_POST(self) -> None:
        self._answer(self._asked)

    def _answer(self, work: Any) -> None:
        try:
            if self.headers.get("Host", "").partition(":")[0] not in LOCAL:
                raise RequestRefusedError(403, f"this page is for this machine alone: http://{HOST}:PORT")
            kind, body = work()
            status = 200
        except RequestRefusedError as error:
            status, kind, body = error.status, "application/json", json.dumps({"error": str(error)})
            self.close_connection = True  # of what was refused the rest is not read
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def _page(self) -> tuple[str, str]:
        if self.path != "/":
            raise RequestRefusedError(404, f"there is no {self.path[:80]}; the page is /")
        return "text/html", PAGE

    def _asked(self) -> tuple[str, str]:
        if self.path != "/ask":
            raise RequestRefusedError(404, f"there is no {self.path[:80]}; questions go to /ask")
        picture, question = _checked(self._body())
        with self._turn:  # one at a time: each takes all cores
            answers = {name: ask(picture, question) for name, ask in self._models.items()}
        return "application/json", json.dumps(answers)

    def _body(self) -> bytes:
        if self.headers.get_content_type() != "application/json":
            raise RequestRefusedError(415, "a question is JSON: Content-Type must be application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise RequestRefusedError(411, "the request does not say its length")
        if int(length) > MOST_BODY_BYTES:
            raise RequestRefusedError(413, f"the picture is too large; at most {MOST_PICTURE_BYTES:,} bytes")
        return self.rfile.read(int(length))


def _checked(body: bytes) -> tuple[bytes, str]:
    """The picture and the question of a request, or a refusal."""
    from tinygptv_core.image import decode

    try:
        told = json.loads(body)
        question, picture = str(told["question"]).strip(), base64.b64decode(told["image"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        raise RequestRefusedError(400, 'a question is {"image": base64, "question": text}') from None
    if not 0 < len(question) <= MOST_QUESTION_CHARACTERS:
        raise RequestRefusedError(
            400, f"a question has 1 to {MOST_QUESTION_CHARACTERS:,} characters; this has {len(question):,}"
        )
    try:
        decode(picture)
    except ValueError as error:
        raise RequestRefusedError(400, str(error)) from None
    return picture, question


@contextmanager
def showing(models: Mapping[str, AnswerFunction], port: int) -> Iterator[str]:
    """The page's address; it is there for as long as the context lasts.

    Args:
        models: what it is called on the page -> how it is asked.
        port: 0 takes a free one.

    Raises:
        OSError: something else listens on that port.
    """
    with ThreadingHTTPServer((HOST, port), partial(_Handler, models, threading.Lock())) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
