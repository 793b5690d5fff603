"""The Celery app of a worker: one task, which is the attempt."""

import logging
import signal
from typing import Any

from celery import Celery
from celery.signals import worker_shutting_down

from store import broker
from worker import transport
from worker.attempt import hand_on, work_off
from worker.patience import closing, draining
from worker.slots import Slots

log = logging.getLogger(__name__)


def make_app(threads: int, slots: Slots) -> Celery:
    """The app; ``threads`` is how many compute threads each trainer gets, ``slots`` where they may run."""
    transport.use()
    app = Celery("liverseg", broker=broker.url())
    app.conf.update(broker.CONFIG)

    @app.task(name=broker.ATTEMPT_TASK, shared=False)
    def run_attempt(*hints: Any) -> None:
        """A message says "there is work in this pool"; which run it named is only a hint.

        It is answered until nothing waits any more: with prefetching off, Celery looks for its next message only
        every two seconds, and the run after this one need not wait for that.
        """
        log.debug("announced: %s", hints)
        work_off(threads, slots)
        if draining.is_set() or closing.is_set():
            hand_on()

    return app


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    draining.set()
    # A second signal would make Celery leave its supervisors alone with runs that they have not given back yet.
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
