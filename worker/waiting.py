"""Processes that wait for a job, so that a run need not wait for a process to start."""

import atexit
import threading
from collections.abc import Mapping, Sequence

from worker import memory
from worker.child import OURS, Child


class Waiting:
    """Processes of one kind, without a job; each has the surroundings that it was started for, such as a device.

    Args:
        command: what is started; trainers unless it is said.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command
        self._most = 0
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        atexit.register(self.end)

    def keep(self, most: int, places: Sequence[Mapping[str, str]] = (OURS,)) -> None:
        """Start ``most`` that wait in each of the surroundings; so many :meth:`prepare` lets there be."""
        self._most = most
        for surroundings in places:
            for _ in range(most):
                self.prepare(surroundings)

    def prepare(self, surroundings: Mapping[str, str] = OURS) -> None:
        """Start one, unless enough of them wait there."""
        with self._lock:
            if len(self._there(surroundings)) < self._most:
                self._idle.append(Child(self._command, surroundings))

    def take(self, surroundings: Mapping[str, str] = OURS) -> Child:
        """The one that has waited there longest, or else a new one."""
        with self._lock:
            for process in self._there(surroundings):
                self._idle.remove(process)
                if not process.ended():
                    return process
                process.kill()  # it died while it waited
        return Child(self._command, surroundings)

    def put(self, process: Child) -> None:
        """Let ``process`` wait again."""
        with self._lock:
            self._idle.append(process)

    def resident_mb(self) -> int:
        """What one that waits has taken of the host's memory, MiB: the least of them; 0: none waits."""
        with self._lock:
            taken = [memory.of_process_mb(process.pid, "RssAnon") for process in self._idle]
        return min((one for one in taken if one), default=0)

    def end(self) -> None:
        """End those that wait, and start no other."""
        self._most = 0
        with self._lock:
            while self._idle:
                self._idle.pop().kill()

    def _there(self, surroundings: Mapping[str, str]) -> list[Child]:
        return [process for process in self._idle if process.surroundings == surroundings]


trainers = Waiting()
"""Those of this process."""
