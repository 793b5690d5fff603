"""What this process carries, what it has left for one more run, and why it takes none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from store.queue import Offer
from worker import memory
from worker.waiting import trainers


class Attempts:
    """How many attempts this process carries right now.

    Attributes:
        labels: those of this worker.
        waits: why threads of it take no run (by thread).
        expected: what memory each run that is carried takes, and has taken already, MiB, as far as it is known.
        claiming: held while a run is claimed, so that the next claim knows what is left beside it.
    """

    def __init__(self) -> None:
        self._lock, self.running = threading.Lock(), 0
        self.labels: dict[str, str] = {}
        self.waits: dict[int, str] = {}
        self.expected: dict[int, tuple[int, int]] = {}
        self.claiming = threading.Lock()

    def offer(self) -> Offer:
        """What this worker has for one more run: also what the trainer has taken that waits for it."""
        left = memory.left_mb()
        if left is None:
            return Offer(self.labels)
        growing = sum(max(0, whole - taken) for whole, taken in self.expected.copy().values())
        return Offer(self.labels, left - growing + trainers.resident_mb())

    @contextmanager
    def carries(self, run: int, memory_mb: int) -> Iterator[None]:
        """While a run is carried that takes ``memory_mb`` MiB; 0: nobody knows."""
        self.expected[run] = memory_mb, 0
        try:
            with self:
                yield
        finally:
            del self.expected[run]

    def grown(self, run: int, taken_mb: int) -> None:
        """Note what memory a run that is carried has taken already, MiB."""
        if run in self.expected:
            self.expected[run] = self.expected[run][0], taken_mb

    def trouble(self) -> str | None:
        """Why this worker takes no run at all; None: it does."""
        return None if self.running else next(iter(self.waits.copy().values()), None)

    def __enter__(self) -> None:
        with self._lock:
            self.running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.running -= 1


attempts = Attempts()
