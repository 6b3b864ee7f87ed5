"""The page for asking, on loopback, with models that are as quick as a word."""

import base64
import http.client
import json
from urllib.parse import urlsplit

import pytest

from tasks.demo import MOST_BODY_BYTES, PAGE, showing
from tests.core.tiny_run import picture

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def address():
    def champion(picture, question):
        return f"<b>{question}</b>"

    def challenger(picture, question):
        return f"{len(picture)} bytes"

    with showing({"champion": champion, "challenger": challenger}, port=0) as address:
        yield urlsplit(address)


def request(address, method, path, body=None, headers=JSON):
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def asked(image, question):
    return json.dumps({"image": base64.b64encode(image).decode(), "question": question})


def test_the_page_is_there_and_every_model_answers(address):
    assert request(address, "GET", "/") == (200, "text/html; charset=utf-8", PAGE)
    status, kind, told = request(address, "POST", "/ask", asked(picture(1), " what? "))
    assert (status, kind) == (200, "application/json; charset=utf-8")  # markup in an answer is no page
    assert json.loads(told) == {"champion": "<b>what?</b>", "challenger": f"{len(picture(1))} bytes"}


def test_the_page_shows_texts_as_text(address):
    assert "innerHTML" not in PAGE and PAGE.count("textContent") == 4


@pytest.mark.parametrize(
    ("body", "headers", "status", "why"),
    [
        (asked(b"no picture", "what?"), JSON, 400, "that are no picture which can be read: "),
        (asked(picture(1)[:45], "what?"), JSON, 400, "that are no picture which can be read: "),
        (asked(picture(1), "  "), JSON, 400, "a question has 1 to 2,000 characters; this has 0"),
        (asked(picture(1), "x" * 2001), JSON, 400, "this has 2,001"),
        ("[]", JSON, 400, "a question is"),
        ('{"image": "?", "question": "what?"}', JSON, 400, "a question is"),
        ("[" * 100_000, JSON, 400, "a question is"),
        ("{}", {"Content-Type": "text/plain"}, 415, "must be application/json"),
        ("{}", {**JSON, "Host": "evil.example:80"}, 403, "for this machine alone"),
        (None, {**JSON, "Content-Length": str(MOST_BODY_BYTES + 1)}, 413, "at most 20,000,000 bytes"),
        (None, {**JSON, "Content-Length": "-1"}, 411, "does not say its length"),
    ],
)
def test_what_is_wrong_is_refused_with_the_reason(address, body, headers, status, why):
    found, _, told = request(address, "POST", "/ask", body, headers)
    assert found == status and why in json.loads(told)["error"]


def test_there_is_nothing_else_on_it(address):
    assert request(address, "GET", "/../etc/passwd")[0] == 404
    assert request(address, "POST", "/", "{}")[0] == 404
