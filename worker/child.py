"""A trainer or scoring process as its supervisor sees it: started, told its job, listened to, ended."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.trainer import EVENTS_FD

LONGEST_TAIL = 2000
"""Bytes of its log that are shown where it crashed."""

TRAINER = (sys.executable, "-P", "-m", "worker.trainer")
"""What is started for each attempt."""


class Child:
    """A process in its own process group.

    Events are read by a thread into an unbounded queue, so that training never waits for the database.

    Args:
        job: what it is to do; None: it is sent later.
        log: where its output goes; None: where ours goes.
        held: file descriptors that it holds open while it lives, such as the lock on its slot.
        command: what is started; a trainer unless it is said.
    """

    def __init__(
        self,
        job: dict[str, Any] | None,
        log: Path | None,
        held: Sequence[int] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        self.log = log
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.peak_memory_mb: int | None = None
        reading, writing = os.pipe()
        with log.open("ab") if log else contextlib.nullcontext() as out:
            self._process = subprocess.Popen(
                command or TRAINER,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                pass_fds=(writing, *held),
                env={**os.environ, EVENTS_FD: str(writing)},
                start_new_session=True,
            )
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        if job:
            self.send(job)

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
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
            if found:
                self.peak_memory_mb = int(found[1]) // 1024

    def ask(self) -> None:
        """SIGTERM: end at the next step."""
        self._process.terminate()

    def kill(self) -> int:
        """End the whole group (grandchildren too) and return the exit status of the first."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
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

    def send(self, job: dict[str, Any]) -> None:
        """Tell it what to do. A job is larger than a pipe, and a process that does not read must hold nobody up."""
        threading.Thread(target=self._write, args=(json.dumps(job).encode() + b"\n",), daemon=True).start()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died or was killed; its exit status says why
            self._process.stdin.write(line)
            self._process.stdin.flush()  # and stays open: its closing tells the process that we are gone

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed process may be torn
                    self.events.put(json.loads(line))
