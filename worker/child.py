"""A trainer or scoring process as its supervisor sees it: started, told its job, listened to, ended."""

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from store import logs
from worker import memory
from worker.trainer import EVENTS_FD

log = logging.getLogger(__name__)

LONGEST_TAIL = 2000
"""Bytes of its log that are shown where it crashed."""

TRAINER = (sys.executable, "-P", "-m", "worker.trainer")
"""What is started for an attempt that trains."""

OURS: Mapping[str, str] = MappingProxyType({})
"""Surroundings that are this process's own."""

RELAYED: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
"""Where every line of the worker's log is JSON: what libraries say while they load is told as a line, too."""


def _relay(said: IO[bytes], pid: int) -> None:
    """Log what a process says before its job gives it a log of its own."""
    with said:
        for line in said:
            log.info("process %s: %s", pid, line.decode("utf-8", "replace").rstrip())


class Child:
    """A process in its own process group, which waits for a job.

    Events are read by a thread into an unbounded queue, so that training never waits for the database.

    Args:
        command: what is started; a trainer unless it is said.
        surroundings: what its environment has beside ours, such as the device that it is to see.
    """

    def __init__(self, command: Sequence[str] | None = None, surroundings: Mapping[str, str] = OURS) -> None:
        self.log: Path | None = None
        self.surroundings = surroundings
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.peak_memory_mb: int | None = None
        reading, writing = os.pipe()
        self._jobs, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command or TRAINER,
                stdin=theirs.fileno(),
                pass_fds=(writing,),
                env={**os.environ, **surroundings, EVENTS_FD: str(writing)},
                start_new_session=True,
                **RELAYED if logs.as_json() else {},
            )
        os.close(writing)
        if self._process.stdout is not None:
            threading.Thread(target=_relay, args=(self._process.stdout, self.pid), daemon=True).start()
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def next_event(self, timeout: float) -> dict[str, Any] | None:
        """The next event, or None after ``timeout`` seconds without one."""
        try:
            return self.events.get(timeout=timeout)
        except queue.Empty:
            return None

    def ended(self) -> bool:
        """Whether the process is gone and all it said has been taken from the queue."""
        return self._process.poll() is not None and not self._reader.is_alive() and self.events.empty()

    def note_memory(self) -> None:
        """Remember the largest resident size so far, in MiB (Linux only; else it stays unknown)."""
        self.peak_memory_mb = memory.of_process_mb(self.pid, "VmHWM") or self.peak_memory_mb

    def ask(self) -> None:
        """SIGTERM: end at the next step."""
        self._process.terminate()

    def kill(self) -> int:
        """End the whole group (grandchildren too) and return the exit status of the first."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        self._jobs.close()
        self._reader.join(timeout=5)
        return status

    def tail(self, most: int = LONGEST_TAIL) -> str:
        """The last lines of its log, ``most`` bytes at most."""
        if self.log is None:
            return ""
        try:
            with self.log.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - most))
                text = file.read(most).decode(errors="replace").replace("\0", "")
        except OSError:
            return ""
        return text if length <= most else text.partition("\n")[2] or text

    def send(self, job: dict[str, Any], log: Path | None = None, held: Sequence[int] = ()) -> None:
        """Tell it what to do; it takes no time, though a job may be larger than what a socket holds.

        Args:
            job: see ``worker.trainer`` and ``worker.scorer``.
            log: where its output goes from now on; None: where ours goes.
            held: file descriptors that it holds open while it lives, such as the lock on its slot.
        """
        self.log = log
        kept = [os.dup(descriptor) for descriptor in held]
        if log:
            kept.insert(0, os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
        line = json.dumps(job | {"logs": log is not None}).encode() + b"\n"
        # A process that does not read must hold nobody up.
        threading.Thread(target=self._write, args=(line, kept), daemon=True).start()

    def _write(self, line: bytes, kept: list[int]) -> None:
        try:
            with contextlib.suppress(OSError):  # it died or was killed; its exit status says why
                if kept:
                    socket.send_fds(self._jobs, [line[:1]], kept)
                self._jobs.sendall(line[bool(kept) :])
        finally:
            for descriptor in kept:
                os.close(descriptor)

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed process may be torn
                    self.events.put(json.loads(line))
