"""Relay, reconciler, reaper and tidying up: one thread of every API process.

Any number of processes may run it: reaper and reconciler do nothing where another one holds their advisory lock, the
relay leaves alone what another one is sending.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sized
from functools import wraps

from sqlalchemy import delete, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from liverseg_core.crash_points import crash_point
from store import broker, deliveries, endings, queue, summaries, waiting
from store.database import alone, is_outage, transaction
from store.models import Announcement
from store.settings import settings
from store.tidy import tidy

log = logging.getLogger(__name__)

BATCH = 500
ENOUGH = 100
"""Messages of a pool in the broker that make more of them pointless: an idle slot would have taken one, and whoever
takes one goes on until nothing waits."""

LOOK_EVERY_S = 2.0
"""How often it looks whether the broker answers, also when there is nothing to send."""

GATHER_S = 0.1
"""How long announcements wait for others, so that submits in a row do not pay for a transaction each."""

TIDY_EVERY_S = 60.0
"""How often files are looked for that may go; a deletion does not wait for it."""
SUMMARISED = 10
"""Runs of one pass, some 15 ms each: announcements must not wait long behind them."""


class Upkeep:
    """The thread; ``wake`` makes it look into the outbox soon (after a submit).

    ``degraded`` says whether the broker was away when it was last looked at: then queued runs wait. ``counts``: what
    each step has done so far, by its name.
    """

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._reap_from = self._tidy_from = 0.0
        self._summarised = self.degraded = False
        self.counts: Counter[str] = Counter()
        # Celery takes a third of a second to load: not at the start.
        self._look_from = time.monotonic() + LOOK_EVERY_S
        self._thread = threading.Thread(target=self._loop, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def tidy_now(self) -> None:
        """Remove files in the next pass, whatever the time."""
        self._tidy_from = 0.0
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def _loop(self) -> None:
        next_pass = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= next_pass:
                self._pass()
                next_pass = time.monotonic() + settings().upkeep_s
            else:  # woken: submits in a row must not pay for a look at every lease
                self._do(relay)
            if self._wake.wait(max(0, next_pass - time.monotonic())):
                self._stop.wait(GATHER_S)
            self._wake.clear()

    def _pass(self) -> None:
        steps = (reap, reconcile, relay) if time.monotonic() >= self._reap_from else (reconcile, relay)
        for step in steps:
            self._do(step)
        if time.monotonic() >= self._tidy_from:
            self._tidy_from = time.monotonic() + TIDY_EVERY_S
            attempt(tidy)
            attempt(forget_messages)
        if not self._summarised:
            attempt(self._summarise)
        if time.monotonic() >= self._look_from:
            attempt(self._look)
            self._look_from = time.monotonic() + LOOK_EVERY_S

    def _do(self, step: Callable[[], int | Sized]) -> None:
        @wraps(step)
        def counted() -> None:
            done = step()
            self.counts[step.__name__] += done if isinstance(done, int) else len(done)

        if not attempt(counted):
            # While the database was away, living workers could not renew their leases either.
            self._reap_from = time.monotonic() + settings().lease_s

    def _look(self) -> None:
        self.degraded = not broker.answers()

    def _summarise(self) -> None:
        """Runs that ended before summaries were kept, or by other definitions; once none is left, none will be."""
        self._summarised = summarise() == 0


def summarise() -> int:
    """Make up the summaries of some runs that are without; how many were, 0 also where another process is at it."""
    with transaction() as session:
        if not alone(session, 4):
            return 0
        runs = summaries.missing(session, SUMMARISED)
        summaries.keep(session, runs)
        return len(runs)


def forget_messages() -> None:
    """Remove old messages of webhooks."""
    with transaction() as session:
        deliveries.forget(session)


def attempt(step: Callable[[], object]) -> bool:
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


def reap() -> list[int]:
    """Take back runs whose lease ran out; the ids taken."""
    with transaction() as session:
        if not alone(session, 1):
            return []
        taken = endings.reap(session, settings().lease_s, settings().max_crashes)
    if taken:
        crash_point("reaped")
        log.warning("lease ran out, taken back: runs %s", taken, extra={"told": {"runs": taken}})
    return taken


def reconcile() -> int:
    """Announce again what waits with an old announcement and no message in the broker for it."""
    count = 0
    with transaction() as session:
        if not alone(session, 2):
            return 0
        for pool, runs in waiting.queued(session).items():
            stale = waiting.stale_announcements(session, pool, settings().reannounce_s, BATCH)
            # A message a waiting run is enough; without this bound a long queue would pile up messages.
            wanted = min(runs, ENOUGH)
            missing = wanted - broker.waiting(pool) - waiting.unsent(session, pool) if stale else 0
            for run in stale[: max(0, missing)]:
                queue.announce(session, run)
                count += 1
    if count:
        crash_point("reconciled")
    return count


def relay() -> int:
    """Send what is in the outbox, as far as it can wake anybody; a row is deleted in the transaction that sent it.

    Returns how many rows are done with.

    Raises:
        broker.Unreachable: the broker went away; what was sent before stays sent.
    """
    done: list[int] = []
    room: dict[str, int] = {}
    try:
        with transaction() as session:
            for row in sorted(session.execute(TAKE, {"most": BATCH})):
                if row.pool not in room:
                    room[row.pool] = ENOUGH - broker.waiting(row.pool)
                if room[row.pool] > 0:
                    broker.send(row.pool, row.run_id, row.number)
                    room[row.pool] -= 1
                done.append(row.id)
                crash_point("announced")
    except broker.Unreachable:
        if done:
            with transaction() as session:
                session.execute(delete(Announcement).where(Announcement.id.in_(done)))
        raise
    return len(done)


TAKE = text("""
    WITH due AS MATERIALIZED (SELECT id FROM outbox ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED)
    DELETE FROM outbox USING due WHERE outbox.id = due.id
    RETURNING outbox.id, outbox.pool, outbox.run_id, outbox.number""")
"""While it is sending, the relay holds these rows and waits for no others: a deletion may be waiting for it."""
