"""The thread of every API process that brings messages to webhooks: beside the upkeep, which never waits for them.

Any number of processes may run it: a message is claimed before it is sent.
"""

import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from liverseg_core.crash_points import crash_point
from store import deliveries, receivers
from store.database import transaction
from store.deliveries import Claimed
from store.marks import Mark
from store.settings import settings
from store.upkeep import attempt

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Messages, each for another webhook: so many slow receivers hold back the others, for seconds each."""


class Courier:
    """Follows what ends, and has up to ``AT_ONCE`` messages sent.

    ``counts``: messages that were ``taken`` so far, and attempts that ended in an ``error``.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._mark: Mark | None = None
        self._busy: set[int] = set()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._senders = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        self._thread = threading.Thread(target=self._loop, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End, after what is being sent; what is not waits for another process."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=10)
        self._senders.shutdown()

    def _loop(self) -> None:
        while not self._stop.is_set():
            attempt(self._gather)
            attempt(self._hand_out)
            self._wake.wait(settings().upkeep_s)
            self._wake.clear()

    def _gather(self) -> None:
        with transaction() as session:
            self._mark = deliveries.gather(session, self._mark)

    def _hand_out(self) -> None:
        free = AT_ONCE - len(self._busy)
        if not free:
            return
        with transaction() as session:
            claimed = deliveries.claim(session, free)
        for one in claimed:
            self._busy.add(one.webhook)
            self._senders.submit(self._bring, one, time.monotonic())

    def _bring(self, one: Claimed, since: float) -> None:
        def bring() -> None:
            self._send(one, since)

        try:
            attempt(bring)
        finally:
            self._busy.discard(one.webhook)
            self._wake.set()

    def _send(self, one: Claimed, since: float) -> None:
        if not deliveries.in_time(time.monotonic() - since):
            return
        answer = receivers.post(one.url, one.secret, one.message, one.body)
        crash_point("message-sent")
        with transaction() as session:
            deliveries.settle(session, one, answer)
        with self._counting:
            self.counts["taken" if answer.error is None else "error"] += 1
        if answer.error is not None:
            log.warning("webhook %s: %s", one.webhook, answer.error, extra={"told": {"webhook": one.webhook}})
