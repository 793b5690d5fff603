"""What a ledger takes and what follows from it: python benchmarks/growing.py --runs 400

Fills a throw-away ledger (``benchmarks/filling.py``), and prints bytes of a run and of an image's row, how fast it is
written out and read in again, and how long a look for ``/metrics`` takes. ``docs/operations.md`` reckons with these.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from sqlalchemy import make_url, text

sys.path.insert(0, str(Path(__file__).parent))
from filling import fill
from machine import machine
from targets import mention, p95, tell

from api.metrics import Everywhere
from store import backup, bundled, schema
from store.database import engine, looking, url
from store.settings import settings

LOOKS = 40


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bytes_of(tables: str) -> int:
    """Of tables and their indexes, toast included."""
    with looking() as connection:
        query = f"SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables WHERE {tables}"
        return int(connection.scalar(text(query)))


def count(table: str) -> int:
    with looking() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")))


def sizes(runs: int) -> int:
    """Print what the ledger takes; the number of images' rows."""
    rows = count("slice_scores")
    mention("an image's row, with its index", bytes_of("relname = 'slice_scores'") / rows, "bytes", f"{rows:,} rows")
    rest = bytes_of("relname <> 'slice_scores'")
    mention("everything else of a run", rest / runs / 1024, "KiB", f"{runs:,} runs; 30 epochs, summaries, events")
    return rows


def there_and_back(home: Path, rows: int) -> None:
    """Write the ledger out, and read it in beside itself."""
    kept = home.with_name(f"{home.name}-kept")
    took = seconds(lambda: backup.back_up(kept, lambda _: None))
    about = backup.read_about(kept)
    mention("written out by liverseg backup", rows / took, "rows/s", f"{rows:,} rows in {took:.1f} s")
    mention("the written ledger, for each image's row", (kept / about.dump).stat().st_size / rows, "bytes")
    with looking() as connection:
        connection.execute(text("CREATE DATABASE again"))
    os.environ["LIVERSEG_DATABASE_URL"] = make_url(url()).set(database="again").render_as_string(hide_password=False)
    for cached in (settings, engine):
        cached.cache_clear()
    took = seconds(lambda: backup.restore(kept, lambda _: None))
    mention("read in by liverseg restore", rows / took, "rows/s", f"{rows:,} rows in {took:.1f} s")
    shutil.rmtree(kept)


def looks() -> None:
    everywhere, times = Everywhere(), []
    mention("the first look for /metrics counts all", 1000 * seconds(lambda: list(everywhere.collect())), "ms")
    for _ in range(LOOKS):
        everywhere._look.until = 0.0
        times.append(1000 * seconds(lambda: list(everywhere.collect())))
    tell("look", p95(times), f"median {median(times):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    home = Path(tempfile.mkdtemp(prefix="liverseg-bench-"))
    os.environ["LIVERSEG_HOME"] = str(home)
    postgres = bundled.start_postgres(home)
    print(machine())
    try:
        schema.upgrade()
        fill(runs)
        rows = sizes(runs)
        looks()
        there_and_back(home, rows)
    finally:
        engine().dispose()
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
