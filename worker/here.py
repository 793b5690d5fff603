"""Says in the ledger that this worker is there, clears up, and ends a worker whose consumer has fallen silent."""

import logging
import os
import signal
import socket
import threading
import time
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError

from store import broker, presence, queue, tidy
from store.database import is_outage, transaction
from store.settings import settings
from worker.attempt import attempts, worker_name
from worker.patience import draining

log = logging.getLogger(__name__)


class Here:
    """A thread that renews this worker's row at every heartbeat.

    It also looks whether runs wait that this worker could take while it has taken none for two announcement periods:
    then the broker's client has lost its connection without noticing, and a fresh process is the cure. (Where the
    broker itself is away, it is not.)
    """

    def __init__(self, slots: int, threads: int) -> None:
        self._slots, self._threads = slots, threads
        self._stop = threading.Event()
        self._idle_since: float | None = None
        self._swept: float | None = None
        self._thread = threading.Thread(target=self._loop, name="here", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye, where the database answers."""
        if self._thread.ident is None:  # never started: the broker was not there yet
            return
        self._stop.set()
        self._thread.join(5)
        try:
            with transaction() as session:
                presence.gone(session, worker_name())
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
        one = presence.Presence(
            name=worker_name(),
            host=socket.gethostname(),
            pool=settings().pool,
            slots=self._slots,
            threads=self._threads,
            version=version("liverseg"),
            draining=draining.is_set(),
            trouble=attempts.trouble(),
        )
        with transaction() as session:
            presence.here(session, one)
            waiting = queue.claimable(session, settings().pool, older_than_s=2 * settings().reannounce_s)
        self._look(0 if attempts.waits else waiting)

    def _sweep(self) -> None:
        now = time.monotonic()
        if self._swept is None or now - self._swept > settings().reannounce_s:
            self._swept = now
            tidy.remove_checkpoints()
            tidy.forget_deleted()

    def _look(self, waiting: int) -> None:
        now = time.monotonic()
        if not waiting or attempts.running or draining.is_set() or not broker.answers():
            self._idle_since = None  # after an outage the client has all that time to connect again
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > 2 * settings().reannounce_s:
            log.error("%s runs wait and no announcement comes in; this worker ends, to be started afresh", waiting)
            self._idle_since = None
            os.kill(os.getpid(), signal.SIGTERM)
