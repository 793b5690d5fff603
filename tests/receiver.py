"""A receiver of webhooks for tests: a real HTTP server that keeps what it got, and its own check of signatures."""

import base64
import hmac
import http.server
import json
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Got:
    """A message as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def data(self) -> dict[str, Any]:
        return self.content["data"]

    def is_signed_with(self, secret: str) -> bool:
        """By the words of the Standard Webhooks specification, without our own code."""
        kind, key = secret.split("_", 1)
        assert kind == "whsec"
        text = b".".join([self.id.encode(), self.headers["webhook-timestamp"].encode(), self.body])
        expected = "v1," + base64.b64encode(hmac.new(base64.b64decode(key), text, "sha256").digest()).decode()
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < 60
        return fresh and expected in self.headers["webhook-signature"].split(" ")


class Receiver:
    """Listens on ``host``; answers ``status`` after ``slow_s`` seconds, with ``location`` where one is set.

    Between :meth:`hold` and :meth:`go_on` it answers nothing, for two minutes at most.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, 0
        self.status, self.slow_s, self.location = 200, 0.0, ""
        self.got: list[Got] = []
        self.begun = threading.Event()
        """Somebody has sent a message, which may not be answered yet."""
        self._answers = threading.Event()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.go_on()
        self.start()

    def hold(self) -> None:
        self._answers.clear()

    def go_on(self) -> None:
        self._answers.set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hook?lab=1"

    def start(self) -> None:
        """Listen, after :meth:`stop` at the same port again."""
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.begun.set()
                receiver._answers.wait(120)
                time.sleep(receiver.slow_s)
                status = receiver.status  # as it is before anybody can know of the message
                receiver.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(status)
                if receiver.location:
                    self.send_header("location", receiver.location)
                self.end_headers()

            def do_GET(self) -> None:
                raise AssertionError("a webhook is never sent with GET")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((self.host, self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.go_on()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
