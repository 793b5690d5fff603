"""Relay, reconciler and reaper: one thread of every API process, each pass under an advisory lock.

Any number of processes may run it; a pass that finds the lock taken does nothing.
"""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import delete, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from store import broker, endings, queue
from store.database import is_outage, transaction
from store.models import Announcement
from store.settings import settings

log = logging.getLogger(__name__)

BATCH = 500


class Upkeep:
    """The thread; ``wake`` makes the next pass start at once (after a submit)."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._reap_from = 0.0
        self._thread = threading.Thread(target=self._loop, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._pass()
            self._wake.wait(settings().upkeep_s)
            self._wake.clear()

    def _pass(self) -> None:
        steps = (reap, reconcile, relay) if time.monotonic() >= self._reap_from else (reconcile, relay)
        for step in steps:
            if not _attempt(step):
                # While the database was away, living workers could not renew their leases either.
                self._reap_from = time.monotonic() + settings().lease_s


def _attempt(step: Callable[[], object]) -> bool:
    """One step; whatever goes wrong is logged and the thread lives on. False: the database is away."""
    try:
        step()
    except broker.Unreachable as error:
        log.warning("%s: the broker is away (%s); announcements wait in the outbox", step.__name__, error)
    except (DBAPIError, PoolTimeout) as error:
        if is_outage(error):
            log.warning("%s: the database is away", step.__name__)
            return False
        log.exception("%s failed", step.__name__)
    except Exception:  # the thread's edge: dying silently would stop the whole queue
        log.exception("%s failed", step.__name__)
    return True


def _alone(session: Session, key: int) -> bool:
    """Whether this process may do the pass ``key`` now; held until the transaction ends."""
    return bool(session.scalar(text("SELECT pg_try_advisory_xact_lock(815001, :key)"), {"key": key}))


def reap() -> list[int]:
    """Take back runs whose lease ran out; the ids taken."""
    with transaction() as session:
        if not _alone(session, 1):
            return []
        taken = endings.reap(session, settings().lease_s, settings().max_crashes)
    if taken:
        log.warning("lease ran out, taken back: runs %s", taken)
    return taken


def reconcile() -> int:
    """Announce again what waits with an old announcement and no message in the broker for it."""
    count = 0
    with transaction() as session:
        if not _alone(session, 2):
            return 0
        for pool, runs in queue.queued(session).items():
            stale = queue.stale_announcements(session, pool, settings().reannounce_s, BATCH)
            # A message a waiting run is enough; without this bound a long queue would pile up messages.
            missing = runs - broker.waiting(pool) - queue.unsent(session, pool) if stale else 0
            for run in stale[: max(0, missing)]:
                queue.announce(session, run)
                count += 1
    return count


def relay() -> int:
    """Send what is in the outbox; a row is deleted in the transaction that sent it.

    Raises:
        broker.Unreachable: the broker went away; what was sent before stays sent.
    """
    failure: Exception | None = None
    sent: list[int] = []
    with transaction() as session:
        if not _alone(session, 3):
            return 0
        for row in session.scalars(select(Announcement).order_by(Announcement.id).limit(BATCH)):
            try:
                broker.send(row.pool, row.run_id, row.number)
            except broker.Unreachable as error:
                failure = error
                break
            sent.append(row.id)
        session.execute(delete(Announcement).where(Announcement.id.in_(sent)))
    if failure:
        raise failure
    return len(sent)
