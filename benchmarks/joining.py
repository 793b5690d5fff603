"""How soon a worker that is started has claimed a run: a real process, real servers, nobody else on the queue.

    python benchmarks/joining.py [--times 10]

From the moment that ``liverseg-worker start`` is called to the claim in the ledger. A trainer loads TensorFlow
meanwhile, as it does whenever a worker starts, and the claim does not wait for it; when it has, its log says.
"""

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from sqlalchemy import text, update

from liverseg_core.submission import Submission
from store import artifacts, experiments
from store.database import transaction
from store.models import DEFAULT_PROJECT, Dataset
from store.upkeep import Upkeep

sys.path.insert(0, str(Path(__file__).parent))
from machine import ledger, machine
from targets import tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    print(machine())
    with ledger() as home:
        (home / "none").write_text("no archive of a data set")
        with transaction() as session:
            session.execute(update(Dataset).values(artifact=artifacts.put(home / "none").sha256))
        upkeep = Upkeep()
        upkeep.start()
        try:
            times = [join(home) for _ in range(options.times)]
        finally:
            upkeep.stop()
    claimed, loaded = zip(*times, strict=True)
    told = f"its trainer has loaded TensorFlow after {median(loaded):.1f} s, worst {max(loaded):.1f} s"
    tell("join", max(claimed), f"n {len(times)}, median {median(claimed):.1f} s; {told}")


def join(home: Path) -> tuple[float, float]:
    """Seconds from the start of a worker to its first claim, and until its trainer begins with the run.

    The run then ends at once, since the archive of its data set is none.
    """
    asked = Submission(spec={"dataset": {"id": "bench"}})
    with transaction() as session:
        run = experiments.submit(session, DEFAULT_PROJECT, asked, reuse=False).runs[0].id
    with (home / "worker.log").open("ab") as log:
        start = time.time()
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.command", "start"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        while (began := beginning(run)) is None:
            if worker.poll() is not None or time.time() - start > 300:
                raise SystemExit((home / "worker.log").read_text())
            time.sleep(0.02)
    finally:
        worker.terminate()
        worker.wait(60)
    claimed, log = began
    return claimed - start, first_line_at(log) - start


def beginning(run: int) -> tuple[float, str] | None:
    """When it was claimed, and the log of its trainer, once that has ended."""
    query = "SELECT extract(epoch FROM started_at)::float8, log FROM attempts WHERE run_id = :run AND log IS NOT NULL"
    with transaction() as session:
        row = session.execute(text(query), {"run": run}).one_or_none()
    return tuple(row) if row else None


def first_line_at(log: str) -> float:
    """Every line of a trainer's log begins with date and time."""
    return datetime.strptime(log[:23], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


if __name__ == "__main__":
    main()
