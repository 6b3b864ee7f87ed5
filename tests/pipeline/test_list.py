"""A user's own list: real pictures, broken links, and a host that was not allowed."""

import io
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow")


def picture(number, kind):
    """A picture unlike every other: a filled circle on noise. PNG pictures have a transparent corner."""
    rng = random.Random(number)
    image = Image.new("RGBA", (rng.randrange(80, 140), rng.randrange(80, 140)), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 60 + number % 7, 60), fill=COLOURS[number % 4])
    draw.point([(rng.randrange(80), rng.randrange(80)) for _ in range(200)], fill="black")
    if kind == "png":
        draw.rectangle((0, 0, 15, 15), fill=(0, 0, 0, 0))
    file = io.BytesIO()
    (image if kind == "png" else image.convert("RGB")).save(file, kind)
    return file.getvalue()


class Pictures(BaseHTTPRequestHandler):
    """`/N.jpeg` and `/N.png` are pictures; other paths are the ways in which links break."""

    elsewhere = ""

    def do_GET(self):
        name = self.path[1:].partition("?")[0]
        stem, _, kind = name.partition(".")
        if stem.isdigit():
            return self.answer(picture(int(stem), kind))
        if stem.startswith("away"):
            self.send_response(302)
            self.send_header("Location", f"http://{self.elsewhere}/{name}")
            return self.end_headers()
        if stem.startswith("html"):
            return self.answer(b"<html><body>not a picture</body></html>")
        if stem.startswith("cut"):
            return self.answer(picture(900, "png")[:300])
        if stem.startswith("tiny"):
            file = io.BytesIO()
            Image.new("RGB", (20, 20), "red").save(file, "png")
            return self.answer(file.getvalue())
        self.send_error(404)

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Visitors(BaseHTTPRequestHandler):
    """The forbidden host: counts who comes."""

    seen: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.seen.append(self.path)
        self.send_error(404)

    def log_message(self, *_):
        pass


def serving(address, handler):
    server = ThreadingHTTPServer((address, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def pictures():
    forbidden, allowed = serving("127.0.0.2", Visitors), serving("127.0.0.1", Pictures)
    Pictures.elsewhere = f"127.0.0.2:{forbidden.server_port}"
    yield f"http://127.0.0.1:{allowed.server_port}"
    for server in (forbidden, allowed):
        server.shutdown()
        server.server_close()


def test_a_users_list_is_fetched_screened_counted_and_trained_on(home, report, pictures, tmp_path):
    rows = [{"url": f"{pictures}/{n}.{kind}", "caption": f"a {COLOURS[n % 4]} circle"}
            for n, kind in enumerate(["jpeg"] * 150 + ["png"] * 50)]  # fmt: skip
    rows += [{"url": f"{pictures}/dead{n}.jpeg", "caption": "nothing there"} for n in range(60)]
    rows += [{"url": f"{pictures}/away{n}.jpeg", "caption": "sent away"} for n in range(5)]
    rows += [{"url": f"{pictures}/html{n}.jpeg", "caption": "a page"} for n in range(4)]
    rows += [{"url": f"{pictures}/cut{n}.png", "caption": "cut off"} for n in range(3)]
    rows += [{"url": f"{pictures}/tiny{n}.png", "caption": "tiny"} for n in range(2)]
    rows += [{"url": f"{pictures}/3.jpeg", "caption": "again"}, {"url": f"{pictures}/4.jpeg?copy", "caption": "a copy"}]
    rows += [{"url": "file:///etc/passwd", "caption": "not a link"}, {"caption": "no link"}, "not a record"]
    random.Random(1).shuffle(rows)
    path = tmp_path / "my.json"
    path.write_text(json.dumps(rows))

    short = [f"stage{n}.schedule.{name}" for n in (1, 2) for name in ("steps=10", "warmup_steps=2")]
    arguments = ["--list", str(path), "--allow-host", "127.0.0.1", "--option", "processes=1"]
    arguments += [word for setting in short for word in ("--set", setting)]
    plan = home.plan(*arguments)
    own = home.report(*arguments, command=("train", "stage2"))
    assert {step["step"]: step["action"] for step in own["steps"]} == {
        step["step"]: plan[step["step"]]["action"] for step in own["steps"]
    }

    assert own["data"] == {
        "list": {
            "rows": len(rows),
            "kept": 200,
            "dropped": {
                "http_404": 60,
                "refused_address": 5,
                "undecodable": 4,
                "truncated": 3,
                "too_small": 2,
                "repeated_url": 1,
                "duplicate": 1,
                "not_allowed_scheme": 1,
                "broken_record": 2,
            },
        }
    }
    assert Visitors.seen == []
    with pytest.raises(HTTPError, match="404"):  # it could have been visited
        urlopen(f"http://{Pictures.elsewhere}/control")
    assert Visitors.seen == ["/control"]
    assert [own["stages"][stage]["steps"] for stage in ("stage1", "stage2")] == [10, 10]


def test_without_its_name_a_private_host_is_refused(home, report, pictures, tmp_path):
    path = tmp_path / "my.json"
    path.write_text(json.dumps([{"url": f"{pictures}/{n}.jpeg", "caption": "a circle"} for n in range(5)]))
    out, errors = home.run("data", "list", "--list", str(path), status=2)
    assert out == "" and "--allow-host" in errors and "refused_address" in errors and "Traceback" not in errors
