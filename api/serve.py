"""Runs the front desk: ``python -m api.serve --host 127.0.0.1 --port 8421``."""

import argparse
import importlib
import ipaddress
import socket
import sys

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from liverseg_core.errors import LiversegError
from store import logs
from store.settings import settings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8421

LARGEST_HEAD = 64 * 2**10
"""Bytes of a request's line and headers; a selection of 500 runs is an address of some 4,000."""

SHORTEST_TOKEN = 32
"""Characters of a LIVERSEG_TOKEN that opens the API to other machines; as hexadecimal digits, 128 random bits."""


class RefusedToListen(LiversegError):
    """The address may not be listened on without a token."""


def serve(host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> None:
    """Listen until SIGINT or SIGTERM; port 0 takes a free one. Prints one line once requests are answered.

    Raises:
        RefusedToListen: ``host`` is beyond loopback, ``LIVERSEG_TOKEN`` is not set and there is no other token; or
            it is set, but so short that it could be guessed; or to a token of another ledger, so that nobody could
            get in.
    """
    local, token = is_loopback(host), settings().token
    if not local and token and len(token) < SHORTEST_TOKEN:
        raise RefusedToListen(
            f"{host} can be reached from other machines, and LIVERSEG_TOKEN has {len(token)} characters, which can "
            f"be guessed: set it to {SHORTEST_TOKEN} random ones or more, such as `openssl rand -hex 32` prints"
        )
    if not local and not token and not _has_token():
        raise RefusedToListen(
            f"{host} can be reached from other machines, so a token is needed: set LIVERSEG_TOKEN to a long random "
            "text, make a token with `liverseg token create`, or listen on 127.0.0.1"
        )
    if token and _opens_nothing(token):
        raise RefusedToListen(
            "LIVERSEG_TOKEN holds a token that was made elsewhere, and there is none here, so nobody could get in: "
            "unset it, or set it to another long random text"
        )
    from api.app import create_app  # after the refusal, which takes no time by itself

    logs.configure("api")
    app = create_app(local)
    config = uvicorn.Config(
        app,
        host,
        port,
        log_config=None if logs.as_json() else uvicorn.config.LOGGING_CONFIG,
        loop="asyncio",  # the same everywhere, whatever else is installed
        http=_BoundedHead,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    _Announcing(config, app).run()


def _opens_nothing(token: str) -> bool:
    """Whether ``LIVERSEG_TOKEN`` is a token of some ledger, but surely not of this one."""
    from store.tokens import PREFIX

    return token.startswith(PREFIX) and _has_token() is False


def _has_token() -> bool | None:
    """Whether the ledger knows a live token; None: it does not answer."""
    from sqlalchemy.exc import DBAPIError

    from store import tokens
    from store.database import looking

    try:
        with looking() as connection:
            return tokens.any_live(connection)
    except DBAPIError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; names other than localhost are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _BoundedHead(HttpToolsProtocol):
    """Requests are read by C code, which bounds nothing by itself; too large an address or headers are refused.

    A whole head that arrives at once is read first: what a loop hands on at once has a bound too.
    """

    _head = 0
    """Bytes that came since the last request was over; -1 within a body."""

    def data_received(self, data: bytes) -> None:
        self._head += len(data) if self._head >= 0 else 0
        super().data_received(data)
        if self._head > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The address and the headers of a request are too large.")

    def on_headers_complete(self) -> None:
        self._head = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()


class _Announcing(uvicorn.Server):
    """Says where it listens, once it does; when it is to stop, ends the streams of events it would else wait for."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.closing.set()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            sys.stdout.write(f"liverseg API ready at http://{shown}:{port}\n")
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.serve", description="Run the liverseg API.")
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default %(default)s)")
    parser.add_argument("--port", default=DEFAULT_PORT, type=int, help="0 takes a free one (default %(default)s)")
    parser.add_argument("--held", action="store_true", help="load everything, then wait for a byte from stdin")
    chosen = parser.parse_args()
    if chosen.held:
        importlib.import_module("api.app")
        if not sys.stdin.buffer.read(1):
            return  # whoever would have let it go is gone
    try:
        serve(chosen.host, chosen.port)
    except LiversegError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
