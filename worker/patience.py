"""Writing to a database that may be away for a while."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from store.database import is_outage, transaction

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def persist(write: Callable[[Session], Result]) -> Result:
    """Do ``write`` in a transaction, again and again while the database is away.

    Raises:
        LeaseLost: the run is no longer ours.
    """

    def once() -> Result:
        with transaction() as session:
            return write(session)

    return insist(once)


def insist(work: Callable[[], Result]) -> Result:
    """Do ``work`` again and again while the database is away."""
    delay = 0.2
    while True:
        try:
            return work()
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
        log.warning("the database is away; trying again in %.1f s", delay)
        time.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        delay = min(5.0, delay * 2)
