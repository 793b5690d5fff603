"""Says in the ledger that this worker is there, hears what is asked of it, clears up, and ends one that is deaf."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError

from store import broker, presence, tidy, waiting
from store.database import is_outage, transaction
from store.presence import Leave
from store.settings import settings
from worker.attempt import hand_on, worker_name
from worker.load import attempts
from worker.patience import closing, draining
from worker.transport import LETS_GO_S

log = logging.getLogger(__name__)


class Here:
    """A thread that renews this worker's row at every heartbeat.

    It also looks whether runs wait that this worker could take while it has taken none for two announcement periods:
    then the broker's client has lost its connection without noticing, and a fresh process is the cure. (Where the
    broker itself is away, it is not.)

    Args:
        slots: how many runs this worker carries at once, over all its devices.
        threads: compute threads of each.
        devices: those it was started for.
        work_off: carries runs until none is left to take. It is called in a thread for runs that ask for labels: a
            worker without these may have taken their announcement.
    """

    def __init__(
        self, slots: int, threads: int, devices: Sequence[str] = (), work_off: Callable[[], object] | None = None
    ) -> None:
        self._slots, self._threads, self._devices = slots, threads, devices
        self._work_off = work_off
        self._helpers: list[threading.Thread] = []
        self._stop = threading.Event()
        self._known = self._handed_on = False
        self._lets_go = 0.0
        self._idle_since: float | None = None
        self._swept: float | None = None
        self._thread = threading.Thread(target=self._loop, name="here", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye, where the database answers, and that runs wait."""
        if self._thread.ident is None:  # never started: the broker was not there yet
            return
        for helper in self._helpers:
            helper.join()
        self._stop.set()
        self._thread.join(5)
        try:
            with transaction() as session:
                presence.gone(session, worker_name())
                waiting.announce_next(session, settings().pool)  # one that was under way to us is lost
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._tell()
                self._sweep()
            except Exception as error:  # the thread's edge: dying silently would make the worker look gone
                if not is_outage(error):
                    log.exception("this worker could not say that it is here")
                self._idle_since = None  # while the database is away nobody can tell whether runs wait
            self._stop.wait(settings().heartbeat_s)

    def _tell(self) -> None:
        offer, pool = attempts.offer(), settings().pool
        one = presence.Presence(
            name=worker_name(),
            host=socket.gethostname(),
            pool=pool,
            slots=self._slots,
            threads=self._threads,
            version=version("liverseg"),
            draining=draining.is_set() or closing.is_set(),
            trouble=attempts.trouble(),
            labels=offer.labels,
            devices=self._devices,
            memory_mb=offer.memory_mb,
        )
        with transaction() as session:
            wish = presence.here(session, one, begins=not self._known)
            overdue = waiting.claimable(session, pool, 2 * settings().reannounce_s, offer=offer)
            special = offer.labels and waiting.claimable(
                session, pool, settings().heartbeat_s, offer=offer, labelled=True
            )
        self._known = True
        self._obey(wish)
        self._look(0 if attempts.waits else overdue)
        if special:
            self._help()

    def _obey(self, wish: Leave | None) -> None:
        """Leave as it was asked for."""
        if wish is None or draining.is_set():
            return
        if not closing.is_set():
            log.warning("asked to leave (%s): this worker takes no more runs", wish)
            closing.set()
            self._lets_go = time.monotonic() + LETS_GO_S
        elif not self._handed_on and time.monotonic() > self._lets_go:
            self._handed_on = True
            hand_on()
            log.info("what waits is announced to others")
        with attempts.claiming:  # no run is between its claim and its being counted
            done = not attempts.running
        if done or wish == Leave.NOW:
            os.kill(os.getpid(), signal.SIGTERM)

    def _help(self) -> None:
        """Take a run without having been told of it, in a slot that is free."""
        self._helpers = [one for one in self._helpers if one.is_alive()]
        if self._work_off is None or draining.is_set() or not len(self._helpers) <= attempts.running < self._slots:
            return
        helper = threading.Thread(target=self._work_off, name=f"unannounced-{len(self._helpers)}", daemon=True)
        self._helpers.append(helper)
        helper.start()

    def _sweep(self) -> None:
        now = time.monotonic()
        if self._swept is None or now - self._swept > settings().reannounce_s:
            self._swept = now
            tidy.remove_checkpoints()
            tidy.forget_deleted()
            tidy.shrink()

    def _look(self, overdue: int) -> None:
        now = time.monotonic()
        if not overdue or attempts.running or draining.is_set() or closing.is_set() or not broker.answers():
            self._idle_since = None  # after an outage the client has all that time to connect again
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > 2 * settings().reannounce_s:
            log.error("%s runs wait and no announcement comes in; this worker ends, to be started afresh", overdue)
            self._idle_since = None
            os.kill(os.getpid(), signal.SIGTERM)
