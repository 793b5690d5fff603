"""Kombu's Redis transport, but for messages that are none, and for a worker that is to take nothing more.

As it comes, a list entry that is no JSON, or JSON of another shape, ends the whole worker, and with it every trainer.
"""

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from worker.patience import closing, draining

log = logging.getLogger(__name__)


LETS_GO_S = redis.Transport.brpop_timeout + 0.5
"""After so long a worker that asks for nothing more is given no message either: its last request has ended."""


class QoS(redis.QoS):  # type: ignore[misc]
    """Asks for no announcement where this worker leaves, which are for others; what is told to all is still heard."""

    def can_consume(self) -> bool:
        leaves = closing.is_set() or draining.is_set()
        return not (leaves and self.channel.active_queues) and bool(super().can_consume())


class Channel(redis.Channel):  # type: ignore[misc]
    """Reads on after what cannot be read."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, KeyError, AttributeError):
            log.warning("a message that is none was dropped", exc_info=True)
            return True


class Transport(redis.Transport):  # type: ignore[misc]
    """The transport with that channel."""

    Channel = Channel


def use() -> None:
    """Take it for every Redis URL of this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
