"""Sending one message to a receiver elsewhere: signed, within seconds, to an address that may be reached.

Signatures are those of the Standard Webhooks specification 1.0. Whoever may write in a project chooses the address,
so it is looked at where it is connected to: what a name resolves to is checked, and that very address is taken.
"""

import base64
import hmac
import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, urlsplit

from liverseg_core.errors import InputError
from store.settings import settings

SEND_S = 5.0
"""How long a message may take, from the look-up of the name to the head of the answer; only the look-up itself, which
the system's resolver bounds, may take longer, and then nothing is sent."""

PREFIX = "whsec_"
"""Of secrets, as the specification wants it; base64 follows."""

URL = r"^https?://[!-~]+$"
LONGEST_URL = 2000
HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
PORTS = {"http": 80, "https": 443}

GLOBAL_UNICAST = IPv6Network("2000::/3")

SPECIAL = ip_network("192.0.0.0/24"), ip_network("168.63.129.16/32"), ip_network("3fff::/20")
"""Not public, though Python 3.11 says so: protocol assignments, with a provider's metadata among them; another one's
metadata; documentation."""

NOT_PUBLIC = "is at no public address; whoever runs the service may allow its network (LIVERSEG_WEBHOOK_PRIVATE)"

OTHER_NAME = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""

Address = tuple[socket.AddressFamily, Any]
"""As the system's resolver gives it: family, and what to connect to."""


@dataclass(frozen=True)
class Answer:
    """What became of a message: ``error`` None: the receiver took it; ``status`` None: nobody answered."""

    status: int | None
    error: str | None


class _Refused(Exception):
    """No address of the receiver may be reached."""


def check(url: str) -> None:
    """Refuse an address that no message can go to, as far as that is known beforehand.

    Raises:
        InputError: it is no address, holds a password or is not public.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError("url", "is no address, such as https://example.org/hook", url) from None
    if re.fullmatch(URL, url) is None or not _is_host(parts.hostname) or port == 0:
        raise InputError("url", "is no address, such as https://example.org/hook", url)
    if "@" in parts.netloc or parts.fragment:  # what was received may hold a password
        raise InputError("url", "holds a name, a password or a #fragment; leave them out")
    try:
        _addresses(parts)
    except _Refused:
        raise InputError("url", NOT_PUBLIC, url) from None
    except (OSError, UnicodeError):
        return  # no name server now, or no such name yet; each delivery looks again


def _is_host(name: str | None) -> bool:
    try:
        return name is not None and (HOST.fullmatch(name) is not None or ip_address(name).version == 6)
    except ValueError:
        return False


# ---- sending -------------------------------------------------------------------------------------------------


def signed(secret: str, message: str, at: int, body: bytes) -> dict[str, str]:
    """The headers that prove a message.

    ``webhook-signature`` is ``v1,`` and the base64 of HMAC-SHA256 over ``message.at.body``, keyed with the bytes that
    ``secret`` writes in base64 after its prefix.

    Args:
        secret: of the webhook.
        message: its id, the same each time it is sent.
        at: seconds since 1970 at which it is sent.
        body: as it is sent.
    """
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.digest(key, f"{message}.{at}.".encode() + body, "sha256")
    return {
        "webhook-id": message,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def post(url: str, secret: str, message: str, body: str) -> Answer:
    """Send a message once; whatever goes wrong is an answer.

    An error tells nothing of the body that was answered, and no address: whoever reads it may know neither.
    """
    until = time.monotonic() + SEND_S
    content = body.encode()
    headers = {"content-type": "application/json", "user-agent": "liverseg", "connection": "close"}
    headers |= signed(secret, message, int(time.time()), content)
    try:
        status = _send(urlsplit(url), headers, content, until)
    except _Refused:
        return Answer(None, NOT_PUBLIC)
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        return Answer(None, _in_words(error))
    if 200 <= status < 300:
        return Answer(status, None)
    redirected = "; redirects are not followed" if 300 <= status < 400 else ""
    return Answer(status, f"answered {status}{redirected}")


def _in_words(error: Exception) -> str:
    match error:
        case TimeoutError():
            return f"no answer within {SEND_S:g} s"
        case socket.gaierror() | UnicodeError():
            return "its name cannot be resolved"
        case ssl.SSLCertVerificationError(verify_code=code) if code in OTHER_NAME:
            return "its certificate is for another name"  # OpenSSL's words hold the name
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case ssl.SSLError():
            return f"TLS failed ({error.reason})"
        case OSError() if error.errno:
            return f"cannot be reached ({error.strerror})"
        case _:
            return "ended the connection, or does not speak HTTP"


def _send(parts: SplitResult, headers: Mapping[str, str], body: bytes, until: float) -> int:
    """The status that was answered; the rest of the answer is not read, and redirects are not followed."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or PORTS[parts.scheme])
    with _connected(parts, until) as line:
        connection.sock = _Timed(line, until)
        connection.request("POST", target, body, dict(headers))
        return connection.getresponse().status


def _connected(parts: SplitResult, until: float) -> socket.socket:
    """A connection to the first address that may be reached and answers; its environment's proxies are not asked."""
    failed: OSError | _Refused = TimeoutError()
    for family, address in _addresses(parts):
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(_left(until))
            line.connect(address)
            _need_elsewhere(line)
            if parts.scheme == "https":
                line.settimeout(_left(until))
                return ssl.create_default_context().wrap_socket(line, server_hostname=parts.hostname)
            return line
        except (OSError, _Refused) as error:
            line.close()
            failed = error
    raise failed


def _need_elsewhere(line: socket.socket) -> None:
    """Refuse what ends on this machine: by its public address too, services are reached that it shows to nobody else.

    Raises:
        _Refused: both ends have one address, of no network in ``LIVERSEG_WEBHOOK_PRIVATE``.
    """
    here, there = (_plain(str(end[0])) for end in (line.getsockname(), line.getpeername()))
    if here == there and not _allowed(there):
        raise _Refused


def _left(until: float) -> float:
    """Seconds until then.

    Raises:
        TimeoutError: none.
    """
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Timed:
    """A connection that is over at a moment, however slowly the other side drips; what http.client asks of one."""

    def __init__(self, line: socket.socket, until: float) -> None:
        self._line, self._until = line, until

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self.in_time))

    def in_time(self) -> socket.socket:
        self._line.settimeout(_left(self._until))
        return self._line

    def sendall(self, data: bytes) -> None:
        self.in_time().sendall(data)

    def close(self) -> None:
        self._line.close()


class _Incoming(io.RawIOBase):
    def __init__(self, line: Callable[[], socket.socket]) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line().recv_into(buffer)


# ---- addresses -----------------------------------------------------------------------------------------------


def _addresses(parts: SplitResult) -> list[Address]:
    """Where the receiver may be reached.

    Raises:
        _Refused: nowhere, though its name is known.
        OSError, UnicodeError: its name is not.
    """
    port = parts.port or PORTS[parts.scheme]
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    allowed: list[Address] = [(family, address) for family, _, _, _, address in found if reachable(str(address[0]))]
    if not allowed:
        raise _Refused
    return allowed


def reachable(address: str) -> bool:
    """Whether messages may go to an IP address: it is public, or of a network in ``LIVERSEG_WEBHOOK_PRIVATE``."""
    found = _plain(address)
    return _public(found) or _allowed(found)


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Without a zone, and IPv4 as that where IPv6 only writes it."""
    found = ip_address(address.partition("%")[0])
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _allowed(address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in settings().webhook_networks)


def _public(address: IPv4Address | IPv6Address) -> bool:
    """Not on this machine, in this network, at a provider's metadata, multicast, or IPv4 in a tunnel of IPv6."""
    if isinstance(address, IPv6Address):
        tunnelled = address.sixtofour or address.teredo
        if address not in GLOBAL_UNICAST or tunnelled:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in SPECIAL)
