"""An endpoint on this machine that rewards and judges: by its path slow, flaky, broken or with other answers."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

SLOW = 0.15
"""Seconds that the path /slow takes."""


class Served:
    """A server in a thread, which ends with the process. Its paths: / , /other, /slow, /flaky (the first time of each body), /broken
    (status 503), /refusing (400), /moved (302), /nonsense (no reward), /text and /deep (no JSON), /endless and /dripping (no end)."""

    running: ClassVar[dict[str, Served]] = {}

    def __init__(self):
        self.lock = threading.Lock()
        self.forget()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                owner.answer(self)

            def log_message(self, format: str, *args: object):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.running[self.url] = self

    @classmethod
    def at(cls, url: str) -> Served:
        return cls.running[url]

    def forget(self) -> None:
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.times: dict[str, list[float]] = {}
        self.under_way = self.most = 0

    def seen(self) -> Any:
        """Requests in any order, keys, the most at once, and pauses before a second attempt in quarters of a second."""
        pauses = [round((t[1] - t[0]) * 4) for t in self.times.values() if len(t) > 1]
        return [sorted(map(json.dumps, self.bodies)), self.keys[:1], self.most, max(pauses, default=0)]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        text = request.rfile.read(int(request.headers["Content-Length"])).decode()
        with self.lock:
            self.bodies.append(json.loads(text))
            self.keys.append(request.headers["Authorization"])
            attempts = self.times.setdefault(text, [])
            attempts.append(time.monotonic())
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        word = request.path.rpartition("/")[2]
        if word == "slow":
            time.sleep(SLOW)
        with self.lock:
            self.under_way -= 1
        if word in ("endless", "dripping"):
            return _without_end(request, word == "dripping")
        status = {"broken": 503, "refusing": 400, "moved": 302}.get(word, 503 if word == "flaky" and len(attempts) == 1 else 200)
        reply = b"sorry" if word == "text" or status != 200 else json.dumps(_reply(json.loads(text), word)).encode()
        if word == "deep":
            reply = b"[" * 100_000
        request.send_response(status)
        if status == 302:
            request.send_header("Location", "/elsewhere")
        request.send_header("Content-Length", str(len(reply)))
        request.end_headers()
        request.wfile.write(reply)


def _without_end(request: BaseHTTPRequestHandler, slowly: bool) -> None:
    """A reply in pieces, until the other side has enough."""
    request.send_response(200)
    request.send_header("Content-Length", str(2**40))
    request.end_headers()
    with suppress(OSError):
        while True:
            request.wfile.write(b" " if slowly else b" " * 2**20)
            time.sleep(SLOW / 10 if slowly else 0)


def _reply(body: dict, word: str) -> Any:
    if word == "nonsense":
        return {"rewards": [1.0] * 99, "choices": []}
    if "samples" in body:
        return {"rewards": [{"total": len(s["response"]) + 0.5 * (word == "other"), "id": 1.0} for s in body["samples"]]}
    asked = body["messages"][-1]["content"]
    if "UNRATED" in asked:
        return {"choices": [{"message": {"content": "I rate nothing."}}]}
    rating = str(100 if "TOO GOOD" in asked else len(asked) % 9 + (word == "other"))
    return {"choices": [{"message": {"content": f"I considered Rating: 99 at first.\nRating: {rating}\nDone, at 3"}}]}
