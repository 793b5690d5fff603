"""What is noted of every request: its id, how long it took, and, where logs are JSON, a line."""

import logging
import re
import time
import uuid

from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store import logs

log = logging.getLogger(__name__)

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS")
NOWHERE = "(none)"
"""Template of an address that no route has, or that was refused before one was looked for."""


class Watched:
    """ASGI middleware around everything else.

    A request's id is its ``X-Request-ID``, where that is a short plain word, else a new one; the answer carries it.

    Args:
        app: what is watched.
        requests: takes method, template and status, and seconds until the head of the answer: a stream of events and
            a download go on for as long as somebody listens.
    """

    def __init__(self, app: ASGIApp, requests: Histogram) -> None:
        self.app = app
        self.requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id, start = _id(scope), time.perf_counter()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message["status"], time.perf_counter() - start)
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with logs.about(request=request_id):
            try:
                return await self.app(scope, receive, noting)
            except Exception:  # it is answered outside of here, with a 500
                self._note(scope, 500, time.perf_counter() - start)
                raise

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "(other)"
        route = template(scope)
        self.requests.labels(method, route, str(status)).observe(seconds)
        if logs.as_json():
            actor = scope.get("state", {}).get("actor")
            told = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4), "actor": actor}
            log.info("request", extra={"told": told})


def _id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if ID.fullmatch(given) else uuid.uuid4().hex


def template(scope: Scope) -> str:
    """The address of the route that answers, with the names of its parameters in place of their values."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return "/static" if scope["path"].startswith("/static/") else NOWHERE
