"""Kombu's Redis transport, but for messages that are none: they are dropped and logged.

As it comes, a list entry that is no JSON, or JSON of another shape, ends the whole worker, and with it every trainer.
"""

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):  # type: ignore[misc]
    """Reads on after what cannot be read."""

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
