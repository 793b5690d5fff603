"""The broker as this host sees it."""

import time
from typing import Any
from urllib.parse import urlsplit

import redis

from store import broker
from store.settings import settings
from worker.doctor.findings import Finding, fail, ok, warn

WAITS_S = 5
OLDEST = 7
"""Major version of Redis; Valkey tells the one that it equals."""


def examine() -> Finding:
    """Whether announcements can come in."""
    where = _shown(broker.url())
    try:
        with _client(broker.url()) as client:
            start = time.perf_counter()
            client.ping()
            seconds = time.perf_counter() - start
            return _judged(where, client.info(), seconds)
    except redis.exceptions.AuthenticationError as error:
        return fail("broker", f"{where}: {error}", "set the right user and password in LIVERSEG_BROKER_URL")
    except (redis.exceptions.RedisError, ValueError) as error:
        return fail("broker", f"{where}: {error}", _mend(str(error)))


def _judged(where: str, info: dict[str, Any], seconds: float) -> Finding:
    number = str(info.get("redis_version", "0"))
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {number}"
    told = f"{name} at {where}, round trip {1000 * seconds:.1f} ms"
    if int(number.partition(".")[0]) < OLDEST:
        return fail("broker", told, f"move to Redis {OLDEST} or newer")
    limit = int(info.get("maxmemory", 0))
    if limit and info.get("maxmemory_policy") != "noeviction":
        gone = f"{told}: it drops messages when its memory is full (maxmemory-policy {info.get('maxmemory_policy')})"
        return warn(
            "broker", gone, "set maxmemory-policy to noeviction, else runs wait until they are announced again"
        )
    if limit and int(info.get("used_memory", 0)) >= limit:
        return fail("broker", f"{told}: its memory is full", "raise maxmemory, or empty what else it holds")
    return ok("broker", told)


def _mend(told: str) -> str:
    if "NOAUTH" in told or "NOPERM" in told:
        return "set a user and password in LIVERSEG_BROKER_URL that may use lists"
    if settings().broker_url is None:
        return "start `liverseg up` with the same LIVERSEG_HOME, or name another server in LIVERSEG_BROKER_URL"
    return "start the server, let this host's packets through to it, or correct LIVERSEG_BROKER_URL"


def _client(url: str) -> "redis.Redis":
    parts = urlsplit(url)
    if parts.scheme in ("redis+socket", "socket"):
        return redis.Redis(unix_socket_path=parts.path, socket_timeout=WAITS_S)
    return redis.Redis.from_url(url, socket_timeout=WAITS_S, socket_connect_timeout=WAITS_S)


def _shown(url: str) -> str:
    """Without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
