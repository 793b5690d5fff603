"""Work that needs no Keras, done in a thread of the worker itself; its supervisor sees it as it sees a trainer.

Scoring stored maps anew takes a fraction of a second, less than a process takes to start, and NumPy leaves nothing
behind that a process would have to free. What must never happen in a worker (Keras) does not happen here.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from liverseg_core.errors import Interrupted
from liverseg_core.records import ExperimentResult
from worker.reporting import CRASHED, report


class Inside:
    """A thread with the face of :class:`worker.child.Child`.

    Args:
        carry_out: the work; it calls its argument between its steps, which raises ``Interrupted`` to end it.
        alive: called between the steps, as a trainer writes its position.
    """

    log: Path | None = None
    peak_memory_mb: int | None = None

    def __init__(
        self, carry_out: Callable[[Callable[[], None]], ExperimentResult], alive: Callable[[], None]
    ) -> None:
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stop = threading.Event()
        self._over = threading.Event()
        self._status = CRASHED
        self._carry_out, self._alive = carry_out, alive
        self._thread = threading.Thread(target=self._run, name="inside", daemon=True)
        self._thread.start()

    def next_event(self, timeout: float) -> dict[str, Any] | None:
        """The next event, or None after ``timeout`` seconds without one."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def ended(self) -> bool:
        """Whether the work has ended and all it said has been taken."""
        return self._over.is_set() and self._events.empty()

    def note_memory(self) -> None:
        """The worker's own memory says nothing about one run."""

    def ask(self) -> None:
        """Ask it to end at its next step."""
        self._stop.set()

    def kill(self) -> int:
        """As :meth:`ask`, but wait for it: a thread cannot be killed. Its status."""
        self._stop.set()
        self._thread.join()
        return self._status

    def tail(self, most: int = 0) -> str:  # noqa: ARG002 - the face of Child
        """It has no log of its own."""
        return ""

    def _run(self) -> None:
        self._tell("progress", phase="scoring")
        self._status = report(self._tell, lambda: self._carry_out(self._between))
        self._over.set()
        self._events.put({})  # wakes the supervisor, which would wait a quarter of a second else

    def _between(self) -> None:
        self._alive()
        if self._stop.is_set():
            raise Interrupted("asked to stop")

    def _tell(self, event: str, **fields: Any) -> None:
        self._events.put({"event": event, **fields})
