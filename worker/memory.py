"""What memory the host has left, so that no trainer is started that would not fit, and what a process has of it."""

import contextlib
import re
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own limit."""


def left_mb() -> int | None:
    """MiB that new processes may take before the host or its container runs out; None: the system does not tell."""
    found = [one for one in (_available(), _below_limit(CGROUP)) if one is not None]
    return min(found) if found else None


def of_process_mb(pid: int, kind: str) -> int | None:
    """What a process has, MiB, as proc(5) calls it (``VmHWM``, ``RssAnon``); None: it is gone, or no system tells."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) // 1024 if found else None
    return None


def _available() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) // 1024
    return None


def _below_limit(cgroup: Path) -> int | None:
    """What is left below the limit of a control group (version 2); page cache counts as left."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())  # "max" is no number
        used = int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
        cache = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        return max(0, limit - used + cache) >> 20
    return None
