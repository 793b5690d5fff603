"""The real stack on one machine: bundled Postgres and Valkey, two APIs, three workers; what ends is started again.

All of it is started from the main thread and ends with it.
"""

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from api.commands.up import free_port
from store import bundled, schema
from store.bundled import Service
from tests.chaos.worker import TRAINER
from tests.processes import processes_of, trains, wait_for, words_of

SLOTS = (2, 1, 1)
"""Of each worker."""

SETTINGS = {
    "LIVERSEG_HEARTBEAT_S": "0.5",
    "LIVERSEG_LEASE_S": "4",
    "LIVERSEG_GRACE_S": "2",
    "LIVERSEG_REANNOUNCE_S": "3",
    "LIVERSEG_UPKEEP_S": "0.2",
    "LIVERSEG_STALL_S": "20",
    "LIVERSEG_RATE": "0",
}
"""Short, but with room for a machine on which a process takes seconds to start."""


def enter(home: Path) -> None:
    """Make this process, and those that it starts, use ``home``."""
    for name in [name for name in os.environ if name.startswith("LIVERSEG_")]:
        del os.environ[name]
    os.environ.update(SETTINGS, LIVERSEG_HOME=str(home))


class Kept:
    """A process that is started again whenever it has ended.

    Args:
        name: of its log.
        words: after ``python``.
        logs: the folder of the logs.
    """

    def __init__(self, name: str, words: list[str], logs: Path) -> None:
        self.name, self.log = name, logs / f"{name}.log"
        # Killed with the runner: nothing of a run that was ended may go on.
        self._command = [*bundled.tether(signal.SIGKILL), sys.executable, *words]
        self._not_before = 0.0
        self.start()

    def start(self) -> None:
        self.process = bundled.spawn(self._command, self.log)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def stopped(self) -> bool:
        return any(one.status() == psutil.STATUS_STOPPED for one in self.tree()[:1])

    def leave_down(self, seconds: float) -> None:
        """Do not start it again before that."""
        self._not_before = time.monotonic() + seconds

    def tend(self) -> bool:
        """Start it where it has ended; whether it had."""
        if self.alive or time.monotonic() < self._not_before:
            return False
        self.start()
        return True

    def tree(self) -> list[psutil.Process]:
        """It and everything below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def trainers(self) -> list[psutil.Process]:
        return [one for one in self.tree()[1:] if is_trainer(one)]


class Stack:
    """Everything that runs; ``counts`` says how often what was started again.

    Args:
        home: a new folder.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.logs = home, home / "logs"
        self.counts: Counter[str] = Counter()
        self.postgres: Service | None = bundled.start_postgres(home)
        self.valkey: Service | None = bundled.start_valkey(home)
        schema.upgrade()
        ports = [free_port() for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.apis = [
            Kept(f"api-{number}", ["-m", "api.serve", "--port", str(port)], self.logs)
            for number, port in enumerate(ports, 1)
        ]
        self.workers = [
            Kept(
                f"worker-{number}",
                ["-m", "tests.chaos.worker", f"device-{number}", "start", "--threads", "1", "--slots", str(slots)],
                self.logs,
            )
            for number, slots in enumerate(SLOTS, 1)
        ]

    def await_ready(self) -> None:
        """Until both APIs see database and broker."""
        for url in self.urls:
            wait_for(f"{url} to be ready", lambda url=url: _ready(url))

    def tend(self) -> None:
        """Start again what has ended."""
        for one in (*self.apis, *self.workers):
            if one.tend():
                self.counts[f"{one.name.partition('-')[0]} processes started again"] += 1

    def trainers(self) -> list[psutil.Process]:
        return [trainer for worker in self.workers for trainer in worker.trainers()]

    def crowded(self) -> list[str]:
        """Workers with more trainers than slots."""
        found = [(worker, len(worker.trainers()), slots) for worker, slots in zip(self.workers, SLOTS, strict=True)]
        return [
            f"{worker.name} has {count} trainers in {slots} slots" for worker, count, slots in found if count > slots
        ]

    def start_postgres(self) -> None:
        if self.postgres is None:
            self.postgres = bundled.start_postgres(self.home)

    def start_valkey(self) -> None:
        if self.valkey is None:
            self.valkey = bundled.start_valkey(self.home)

    def stop(self) -> None:
        """Workers first, by SIGTERM, then the rest."""
        self.start_postgres()  # a worker that drains waits for it a lease
        for one in (*self.workers, *self.apis):
            Service(one.name, one.process, signal.SIGTERM).stop(60)
        for service in (self.valkey, self.postgres):
            if service is not None:
                service.stop()

    def left_over(self) -> list[str]:
        """Processes that live though all of it was stopped."""
        with contextlib.suppress(AssertionError):
            wait_for("every process to end", lambda: not self._others(), 30)
        return [" ".join(words_of(process)) for process in self._others()]

    def _others(self) -> list[psutil.Process]:
        return [process for process in processes_of(self.home) if process.pid != os.getpid()]


def is_trainer(process: psutil.Process) -> bool:
    """Whether it carries a run through; one that waits for a run holds no slot."""
    return trains(process, TRAINER)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        told = httpx.get(f"{url}/readyz", timeout=10).json()
        return bool(told["ready"] and told["broker"])
    return False
