"""What every request passes first: headers, rate, token, host, origin, scope and size.

Without any token the API lets in whoever reaches it on loopback (``api.serve`` sees to it); then the Host must be
loopback too, so that no web page can reach it through a name of its own that resolves to 127.0.0.1.
"""

import base64
import re
from urllib.parse import urlsplit

from fastapi import Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callers import LOCAL, Caller, Keyring, lacks
from api.problems import Problem, answer, error_at, of_database
from api.rates import Rates
from api.render import HEADERS
from store import tokens

MAX_JSON_BYTES = 2 * 2**20
UPLOADS = re.compile(r"/v1/(datasets|weights|runs/[0-9]+/predictions)")
OPEN = ("/healthz", "/readyz")
SAFE = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("localhost", "127.0.0.1", "::1")

CHALLENGE = {"WWW-Authenticate": 'Bearer, Basic realm="liverseg", charset="UTF-8"'}


class Guard:
    """ASGI middleware around everything; whom it lets in stands in ``request.state.caller`` and ``.actor``.

    Args:
        app: what is guarded.
        keyring: knows who is behind a token; everything but ``OPEN`` needs somebody.
        rates: how much each caller may ask.
        max_upload_bytes: largest body of the paths that ``UPLOADS`` fits; all others take ``MAX_JSON_BYTES``.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, rates: Rates, max_upload_bytes: int) -> None:
        self.app = app
        self.keyring = keyring
        self.rates = rates
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            await self._answer(scope, receive, _with_headers(send))
        finally:
            if self.keyring.owes:
                await run_in_threadpool(self.keyring.note_use)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        limit = self.max_upload_bytes if UPLOADS.fullmatch(request.url.path) else MAX_JSON_BYTES
        try:
            if request.url.path in OPEN:
                self._count(request, None)
            else:
                await self._let_in(request)
            _check(request, limit)
        except Problem as problem:
            return await answer(request, problem)(scope, receive, send)
        return await self.app(scope, _limited(receive, limit), send)

    async def _let_in(self, request: Request) -> None:
        """Find the caller.

        Raises:
            Problem: nobody who is known, or one who asks too often.
        """
        secret = _secret(request)
        caller = self.keyring.recall(secret)
        if caller is None:
            self._count(request, None)  # before the database is asked
            caller = await self._look_up(request, secret)
        elif caller == LOCAL:
            self._count(request, None)
        if caller != LOCAL:
            self._count(request, caller)
        request.state.caller, request.state.actor = caller, caller.actor

    async def _look_up(self, request: Request, secret: str | None) -> Caller:
        try:
            found = await run_in_threadpool(self.keyring.look_up, secret)
        except (DBAPIError, PoolTimeout) as error:
            raise of_database(request, error) from None
        if found is None:
            raise Problem(401, "a token is needed: Authorization: Bearer TOKEN", headers=CHALLENGE)
        return found

    def _count(self, request: Request, caller: Caller | None) -> None:
        """One request of a token, or of an address."""
        address = request.client.host if request.client else ""
        bucket = f"token {caller.token or caller.actor}" if caller else f"address {address}"
        wait = self.rates.wait_s(bucket)
        if wait:
            raise Problem(
                429,
                f"more than {self.rates.rate:g} requests a second; go on in {wait} s",
                headers={"Retry-After": str(wait)},
            )


def _check(request: Request, limit: int) -> None:
    """What is known from the head of a request alone.

    Raises:
        Problem: it comes from another site, changes something with a token that may not, or is too large.
    """
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller == LOCAL and _hostname(request) not in LOOPBACK:
        raise Problem(403, "without a token the API answers to loopback names only; use http://127.0.0.1")
    if request.method not in SAFE:
        if not _is_same_origin(request):
            raise Problem(403, "a page of another site sent this request; send it from this one")
        if caller is not None and not caller.may_write:
            raise lacks(tokens.Scope.WRITE)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)


def _secret(request: Request) -> str | None:
    """The token that a request carries, if any."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip() or None
    return (_basic_password(given) or None) if scheme.lower() == "basic" else None


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
