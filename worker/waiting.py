"""Processes that wait for a job, so that a run need not wait for a process to start."""

import atexit
import threading
from collections.abc import Sequence

from worker.child import Child


class Waiting:
    """Processes of one kind, without a job.

    Args:
        command: what is started; trainers unless it is said.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command
        self._most = 0
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        atexit.register(self.end)

    def keep(self, most: int) -> None:
        """Start ``most`` that wait; so many :meth:`prepare` lets there be."""
        self._most = most
        for _ in range(most):
            self.prepare()

    def prepare(self) -> None:
        """Start one, unless enough of them wait."""
        with self._lock:
            if len(self._idle) < self._most:
                self._idle.append(Child(self._command))

    def take(self) -> Child:
        """The one that has waited longest, or else a new one."""
        with self._lock:
            while self._idle:
                process = self._idle.pop(0)
                if not process.ended():
                    return process
                process.kill()  # it died while it waited
        return Child(self._command)

    def put(self, process: Child) -> None:
        """Let ``process`` wait again."""
        with self._lock:
            self._idle.append(process)

    def end(self) -> None:
        """End those that wait, and start no other."""
        self._most = 0
        with self._lock:
            while self._idle:
                self._idle.pop().kill()
