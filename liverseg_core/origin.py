"""Which code computes, on what kind of machine: part of a result's provenance, free of names and paths."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
CPUINFO = Path("/proc/cpuinfo")


def origin() -> dict[str, str]:
    """``liverseg``, ``python``, ``processor``, ``cores`` and, in a git checkout, ``commit``."""
    found = {
        "liverseg": version("liverseg"),
        "python": platform.python_version(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
    }
    here = commit()
    return found if here is None else found | {"commit": here}


def processor() -> str:
    """The processor's model, or at least its architecture."""
    try:
        named = re.search(r"^model name\s*:\s*(\S.*?)\s*$", CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def commit(root: Path = ROOT) -> str | None:
    """The checked-out commit of ``root``, with ``-dirty`` where files differ; None where it is no checkout."""
    if not (root / ".git").exists():  # an installed copy inside somebody's repository is not that repository
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
