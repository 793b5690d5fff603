"""Writing to a database that may be away for a while."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from store.database import is_outage, transaction
from store.settings import settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Drain(threading.Event):
    """Set when this worker is asked to end: every attempt gives its run back."""

    _since: float | None = None

    def set(self) -> None:
        """Ask it to end."""
        self._since = self._since or time.monotonic()
        super().set()

    def in_vain(self) -> bool:
        """Whether that was a lease ago: what could not be given back since then is taken back anyway."""
        return self._since is not None and time.monotonic() - self._since > settings().lease_s


draining = Drain()

closing = threading.Event()
"""Set when this worker is to finish what it carries and take nothing more."""


def persist(write: Callable[[Session], Result], give_up: Callable[[], bool] = draining.in_vain) -> Result:
    """Do ``write`` in a transaction, again and again while the database is away, until ``give_up`` says so.

    Raises:
        LeaseLost: the run is no longer ours.
        SQLAlchemyError: the database is away, and ``give_up`` said so.
    """

    def once() -> Result:
        with transaction() as session:
            return write(session)

    return insist(once, give_up)


def insist(work: Callable[[], Result], give_up: Callable[[], bool] = draining.in_vain) -> Result:
    """Do ``work`` again and again while the database is away, until ``give_up`` says so."""
    delay = 0.2
    while True:
        try:
            return work()
        except SQLAlchemyError as error:
            if not is_outage(error) or give_up():
                raise
        log.warning("the database is away; trying again in %.1f s", delay)
        time.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        delay = min(5.0, delay * 2)
