"""The producer's half of Celery: says "there is work in this pool" and nothing else.

Losing, repeating, delaying or reordering such a message is harmless; the database decides what is done.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock, get_ident
from typing import TYPE_CHECKING

from store import bundled
from store.settings import settings

if TYPE_CHECKING:
    from celery import Celery

ATTEMPT_TASK = "liverseg.attempt"

CONFIG = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "result_backend": None,
    "task_ignore_result": True,
    "task_acks_late": False,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "task_create_missing_queues": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    "worker_send_task_events": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_connection_timeout": 3,
    "broker_transport_options": {"socket_timeout": 30, "socket_connect_timeout": 3, "socket_keepalive": True},
}
"""Settings of both halves; why each is so stands in docs/decisions/."""

SENDER_WAITS_S = 5
"""How long a sender waits for an answer: of a broker that is half open it is to hear soon."""

AT_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


_LOADING = Lock()
"""Celery and kombu put other modules in their place while they load: a second thread would find them half there."""


class Unreachable(Exception):
    """The broker is away or refuses (out of memory, still loading)."""


def url() -> str:
    """The broker of this process."""
    return settings().broker_url or bundled.broker_url(settings().home)


def queue_name(pool: str) -> str:
    """The Celery queue of a worker pool."""
    return f"liverseg.{pool}"


@cache
def producer() -> "Celery":
    """The Celery app that sends; connects on first use."""
    with _LOADING:
        from celery import Celery  # here: the API is ready a third of a second earlier without it

    app = Celery("liverseg", broker=url())
    app.conf.update(CONFIG, task_publish_retry=False)
    # Who sends must learn at once that the broker is away; the worker's half waits for it instead.
    options = app.conf.broker_transport_options
    app.conf.broker_transport_options = {**options, **AT_ONCE, "socket_timeout": SENDER_WAITS_S}
    return app


def send(pool: str, run_id: int, number: int) -> None:
    """Send one announcement.

    Raises:
        Unreachable: the broker is away.
    """
    with _translated():
        producer().send_task(ATTEMPT_TASK, args=[run_id, number], queue=queue_name(pool))


def waiting(pool: str) -> int:
    """How many announcements wait in the broker for ``pool``.

    Raises:
        Unreachable: the broker is away.
    """
    with _translated(), producer().pool.acquire(block=True) as connection:
        connection.ensure_connection(**AT_ONCE, reraise_as_library_errors=True)
        # What sends takes its connection from there too: so it has one before there is anything to send.
        with connection.default_channel.conn_or_acquire() as client:
            return int(client.llen(queue_name(pool)))


def answers() -> bool:
    """Whether the broker can be asked now."""
    try:
        waiting(settings().pool)
    except Unreachable:
        return False
    return True


_asking: dict[int, float] = {}
"""Threads that the broker keeps waiting, and since when."""


def keeps_waiting() -> bool:
    """Whether somebody of this process has waited for the broker for longer than for an answer.

    A name server that does not answer has no limit of ours, and takes twenty seconds.
    """
    return any(time.monotonic() - since > 2 * SENDER_WAITS_S for since in list(_asking.values()))


@contextmanager
def _translated() -> Iterator[None]:
    """One error for all that Celery, kombu and the Redis client raise."""
    with _LOADING:
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

    _asking[get_ident()] = time.monotonic()
    try:
        yield
    except (OperationalError, RedisError) as error:
        raise Unreachable(str(error)) from error
    finally:
        del _asking[get_ident()]
