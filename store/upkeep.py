"""Relay, reconciler, reaper and tidying up: two threads of every API process.

Any number of processes may run them: reaper and reconciler do nothing where another one holds their advisory lock,
and what two relays send twice is harmless.

The broker is never asked in a transaction, nor by the thread that reaps: it may keep whoever asks waiting for a
minute (a name server that does not answer takes twenty seconds), and rows would be locked for as long.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sized
from functools import wraps

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from liverseg_core.crash_points import crash_point
from store import broker, deliveries, endings, queue, summaries, waiting
from store.database import alone, is_outage, looking, transaction
from store.settings import settings
from store.tidy import tidy

log = logging.getLogger(__name__)

BATCH = 500
ENOUGH = 100
"""Messages of a pool in the broker that make more of them pointless: an idle slot would have taken one, and whoever
takes one goes on until nothing waits."""

LOOK_EVERY_S = 2.0
"""How often it looks whether the broker answers, also when there is nothing to send."""

FIRST_LOOK_S = 1.0
"""How long who asks for it before it was ever looked at is kept waiting."""

GATHER_S = 0.1
"""How long announcements wait for others, so that submits in a row do not pay for a transaction each."""

TIDY_EVERY_S = 60.0
"""How often files are looked for that may go; a deletion does not wait for it."""
SUMMARISED = 10
"""Runs of one pass, some 15 ms each: the reaper must not wait long behind them."""


class Upkeep:
    """The threads; ``wake`` makes one of them look into the outbox soon (after a submit).

    ``counts``: what each step has done so far, by its name.
    """

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._reap_from = self._tidy_from = 0.0
        self._summarised = self._away = False
        self._looked = threading.Event()
        self.counts: Counter[str] = Counter()
        # Celery takes a third of a second to load: not at the start.
        self._look_from = time.monotonic() + LOOK_EVERY_S
        self._threads = [
            threading.Thread(target=loop, name=name, daemon=True)
            for name, loop in (("upkeep", self._keep), ("relay", self._announce))
        ]

    @property
    def degraded(self) -> bool:
        """Whether the broker was away when it was last looked at, or lets us wait for it: then queued runs wait."""
        return self._away or broker.keeps_waiting()

    def hears_the_broker(self) -> bool:
        """Whether it answered when it was last looked at; for the first time that is now, or no after a second."""
        if not self._looked.is_set():
            self._look_from = 0.0
            self._wake.set()
        return self._looked.wait(FIRST_LOOK_S) and not self.degraded

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        self._wake.set()

    def tidy_now(self) -> None:
        """Remove files in the next pass, whatever the time."""
        self._tidy_from = 0.0

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _keep(self) -> None:
        while True:
            self._keeping_pass()
            if self._stop.wait(settings().upkeep_s):
                return

    def _announce(self) -> None:
        next_pass = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= next_pass:
                self._announcing_pass()
                next_pass = time.monotonic() + settings().upkeep_s
            else:  # woken: submits in a row must not pay for a look at every queued run
                self._do(relay)
                self._look_if_due()
            if self._wake.wait(max(0, next_pass - time.monotonic())):
                self._stop.wait(GATHER_S)
            self._wake.clear()

    def _keeping_pass(self) -> None:
        self._do(reap if time.monotonic() >= self._reap_from else touch)
        if time.monotonic() >= self._tidy_from:
            self._tidy_from = time.monotonic() + TIDY_EVERY_S
            attempt(tidy)
            attempt(forget_messages)
        if not self._summarised:
            attempt(self._summarise)

    def _announcing_pass(self) -> None:
        self._do(reconcile)
        self._do(relay)
        self._look_if_due()

    def _look_if_due(self) -> None:
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
        self._away = not broker.answers()
        self._looked.set()

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


def touch() -> int:
    """Find out whether the database answers, and nothing else."""
    with looking() as connection:
        connection.execute(text("SELECT 1"))
    return 0


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
    """Announce again what waits with an old announcement and no message in the broker for it.

    Raises:
        broker.Unreachable: the broker is away.
    """
    with transaction() as session:
        pools = waiting.stale_pools(session, settings().reannounce_s)
    if not pools:
        return 0
    messages = {pool: broker.waiting(pool) for pool in pools}
    count = 0
    with transaction() as session:
        if not alone(session, 2):
            return 0
        runs = waiting.queued(session)
        for pool in pools:
            # A message a waiting run is enough; without this bound a long queue would pile up messages.
            wanted = min(runs.get(pool, 0), ENOUGH)
            missing = wanted - messages[pool] - waiting.unsent(session, pool)
            for run in waiting.stale_announcements(session, pool, settings().reannounce_s, max(0, missing)):
                queue.announce(session, run)
                count += 1
    if count:
        crash_point("reconciled")
    return count


def relay() -> int:
    """Send what is in the outbox, as far as it can wake anybody; a row is deleted once it is done with.

    Who dies in between has sent it for another relay too, which sends it again.

    Returns how many rows are done with, by this relay alone.

    Raises:
        broker.Unreachable: the broker went away; what was sent before stays sent.
    """
    with looking() as connection:
        due = connection.execute(DUE, {"most": BATCH}).all()
    done: list[int] = []
    room: dict[str, int] = {}
    try:
        for row in due:
            if row.pool not in room:
                room[row.pool] = ENOUGH - broker.waiting(row.pool)
            if room[row.pool] > 0:
                broker.send(row.pool, row.run_id, row.number)
                room[row.pool] -= 1
            done.append(row.id)
            crash_point("announced")
    finally:
        gone = _forget(done)
    return gone


def _forget(announcements: list[int]) -> int:
    """Delete them; how many were still there."""
    if not announcements:
        return 0
    with transaction() as session:
        return len(session.execute(FORGET, {"ids": announcements}).all())


DUE = text("SELECT id, pool, run_id, number FROM outbox ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED")
"""Locked for this question alone: a Postgres that only reads refuses it, before anything is sent that then stays."""
FORGET = text("""
    WITH free AS MATERIALIZED (SELECT id FROM outbox WHERE id = ANY(:ids) ORDER BY id FOR UPDATE SKIP LOCKED)
    DELETE FROM outbox USING free WHERE outbox.id = free.id RETURNING outbox.id""")
"""Waits for nobody: who holds a row is removing it too, a relay that has sent it as well or a deletion."""
