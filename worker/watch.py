"""Looks whether a trainer gets on, and says in one word how it died."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from store.settings import settings


class Killable(Protocol):
    def kill(self) -> int: ...


class Watch:
    """The progress deadline: a process that lives and does nothing is killed.

    Args:
        sign: something that changes for as long as the trainer gets on.
    """

    def __init__(self, sign: Callable[[], object]) -> None:
        self.stalled = False
        self._sign, self._seen, self._since = sign, sign(), time.monotonic()
        self._kills = out_of_memory_kills()

    def look(self, child: Killable) -> None:
        """Kill ``child`` where nothing has changed for ``stall_s`` seconds."""
        sign = self._sign()
        if sign != self._seen:
            self._seen, self._since = sign, time.monotonic()
        elif not self.stalled and time.monotonic() - self._since > settings().stall_s:
            self.stalled = True
            child.kill()

    def reason(self, status: int) -> str:
        """Why a trainer crashed, one of ``store.reasons.ADVICE``; ``status`` is its exit status."""
        if self.stalled:
            return "stalled"
        if status == -signal.SIGKILL:
            return "host-out-of-memory" if out_of_memory_kills() > self._kills else "killed"
        return "signal" if status < 0 else "exception"

    def told(self, status: int) -> str:
        """The same in words."""
        if self.stalled:
            return f"no step and no slice for {settings().stall_s:g} s: its process hung and was killed"
        if status >= 0:
            return f"its process ended with status {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        by = " by the kernel, which had run out of memory" if self.reason(status) == "host-out-of-memory" else ""
        return f"its process was killed by signal {name}{by}"


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
