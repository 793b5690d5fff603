"""What every request passes first: headers, size, host, origin and token.

Without a token the API listens on loopback only (``api.serve`` sees to it); then the Host must be loopback too,
so that no web page can reach it through a name of its own that resolves to 127.0.0.1.
"""

import base64
import hmac
import re
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, answer, error_at
from api.render import HEADERS

MAX_JSON_BYTES = 2 * 2**20
UPLOADS = re.compile(r"/v1/(datasets|weights|runs/[0-9]+/predictions)")
OPEN = ("/healthz", "/readyz")
SAFE = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("localhost", "127.0.0.1", "::1")

CHALLENGE = {"WWW-Authenticate": 'Bearer, Basic realm="liverseg", charset="UTF-8"'}


class Guard:
    """ASGI middleware around everything.

    Args:
        app: what is guarded.
        token: demanded from every request but those of ``OPEN``; None: nobody is asked.
        max_upload_bytes: largest body of the paths that ``UPLOADS`` fits; all others take ``MAX_JSON_BYTES``.
    """

    def __init__(self, app: ASGIApp, token: str | None, max_upload_bytes: int) -> None:
        self.app = app
        self.token = token
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request, send = Request(scope), _with_headers(send)
        limit = self.max_upload_bytes if UPLOADS.fullmatch(request.url.path) else MAX_JSON_BYTES
        problem = self._refusal(request, limit)
        if problem:
            return await answer(request, problem)(scope, receive, send)
        return await self.app(scope, _limited(receive, limit), send)

    def _refusal(self, request: Request, limit: int) -> Problem | None:
        if not self._is_known(request):
            return Problem(401, "a token is needed: Authorization: Bearer TOKEN", headers=CHALLENGE)
        if not self.token and _hostname(request) not in LOOPBACK:
            return Problem(403, "without a token the API answers to loopback names only; use http://127.0.0.1")
        if request.method not in SAFE and not _is_same_origin(request):
            return Problem(403, "a page of another site sent this request; send it from this one")
        length = request.headers.get("content-length", "")
        return _too_large(limit) if length.isdecimal() and int(length) > limit else None

    def _is_known(self, request: Request) -> bool:
        if not self.token or request.url.path in OPEN:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        found = _basic_password(given) if scheme.lower() == "basic" else given.strip()
        return scheme.lower() in ("bearer", "basic") and hmac.compare_digest(found.encode(), self.token.encode())


def _basic_password(given: str) -> str:
    """The password of HTTP Basic, which is how browsers hand in the token; any user name will do."""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:  # no base64, or no UTF-8 in it
        return ""


def _hostname(request: Request) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _is_same_origin(request: Request) -> bool:
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _too_large(limit: int) -> Problem:
    message = f"is larger than {limit:,} bytes; send less"
    return Problem(413, f"the body {message}", [error_at("body", message)])


def _limited(receive: Receive, limit: int) -> Receive:
    """``receive`` that counts, because a chunked body tells no length."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise _too_large(limit)
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
