"""Where it is measured: this machine in two lines, and a throw-away home with servers and one data set.

python benchmarks/machine.py
"""

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from sqlalchemy import text

from liverseg_core.data.manifest import Manifest, SliceEntry
from store import bundled, datasets, schema
from store.database import transaction
from store.models import DEFAULT_PROJECT

OWN = ("LIVERSEG_DATABASE_URL", "LIVERSEG_BROKER_URL", "LIVERSEG_POOL", "LIVERSEG_TOKEN", "LIVERSEG_URL")
"""Settings of whoever measures, which must not decide what is measured."""

SLICES = 500


def machine() -> str:
    """Cores, versions, how busy it is, and how evenly it runs."""
    version = {name: _version(program) for name, program in _servers().items()}
    return (
        f"{len(os.sched_getaffinity(0))} cores ({_processor()}), Python {platform.python_version()}, "
        f"Postgres {version['postgres']}, Valkey {version['valkey']}, load {os.getloadavg()[0]:.1f}\n{pace()}"
    )


def pace() -> str:
    """How long the same Python takes, again and again: neighbours of a rented machine take its cores away."""
    times = sorted(_squares() for _ in range(100))
    return (
        f"the sum of 200,000 squares takes {times[0]:.1f} ms at best, {times[50]:.1f} in the median, "
        f"{times[95]:.1f} at p95 (n 100)"
    )


def _squares() -> float:
    start = time.perf_counter()
    sum(number * number for number in range(200_000))
    return 1000 * (time.perf_counter() - start)


@contextmanager
def throw_away_home() -> Iterator[Path]:
    """A folder that ``LIVERSEG_HOME`` names; everything is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
    os.environ["LIVERSEG_HOME"] = str(home)
    for name in OWN:
        os.environ.pop(name, None)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def ledger() -> Iterator[Path]:
    """Both servers on a home of their own, with the data set ``bench``: 500 slices of one train and one val scan."""
    with throw_away_home() as home:
        postgres, valkey = bundled.start_postgres(home), bundled.start_valkey(home)
        try:
            schema.upgrade()
            add_dataset()
            yield home
        finally:
            valkey.stop()
            postgres.stop()


def add_dataset() -> None:
    """The data set ``bench``, in a ledger that is up to date; nothing lies on disk."""
    parts = (("train", 1), ("val", 0))
    entries = [SliceEntry(part, scan, n, f"{part} {n}", part) for part, scan in parts for n in range(SLICES)]
    manifest = Manifest(512, 512, tuple(entries), {0: "0", 1: "1"}, True)
    with transaction() as session:
        datasets.add(session, DEFAULT_PROJECT, "bench", manifest, "")


def durability() -> str:
    """What a commit costs here; nothing is switched off that keeps it through a power cut."""
    names = ("fsync", "synchronous_commit", "full_page_writes")
    with transaction() as session:
        session.execute(text("CREATE TABLE bench_commits (n int)"))
        shown = ", ".join(f"{name} {session.scalar(text(f'SHOW {name}'))}" for name in names)
    return f"durable: {shown}; a commit of one row takes {median(_commit() for _ in range(100)):.1f} ms"


def _commit() -> float:
    with transaction() as session:
        session.execute(text("INSERT INTO bench_commits VALUES (1)"))
        start = time.perf_counter()
        session.commit()
        return 1000 * (time.perf_counter() - start)


def _servers() -> dict[str, Path]:
    return {"postgres": bundled._postgres_bin() / "postgres", "valkey": bundled._valkey_server()}


def _version(program: Path) -> str:
    words = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next(word.removeprefix("v=") for word in words if word.removeprefix("v=")[:1].isdecimal())


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    print(machine())
