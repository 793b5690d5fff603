"""How fast the ledger is, on a throw-away home: python benchmarks/ledger.py

Every line is a median over repeats, on this machine, with the bundled Postgres and Valkey.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from sqlalchemy import insert

from api.callers import Keyring
from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.records import SliceScore
from liverseg_core.submission import Submission
from store import bundled, comparison, datasets, experiments, models, queue, schema, scores, tokens, views
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT

SLICES, RUNS, CLAIMS, PROCESSES, TOKENS = 500, 15, 400, 4, 200


@contextmanager
def throw_away_home() -> Iterator[None]:
    """A home with both servers and one data set; everything is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="liverseg-bench-"))
    os.environ["LIVERSEG_HOME"] = str(home)
    for name in ("LIVERSEG_DATABASE_URL", "LIVERSEG_BROKER_URL", "LIVERSEG_POOL", "LIVERSEG_TOKEN"):
        os.environ.pop(name, None)
    postgres = bundled.start_postgres(home)
    try:
        schema.upgrade()
        scans = {"train": 1, "val": 0}
        entries = [
            SliceEntry(part, scan, n, f"{part} {n}", part) for part, scan in scans.items() for n in range(SLICES)
        ]
        with transaction() as session:
            datasets.add(
                session, DEFAULT_PROJECT, "bench", Manifest(512, 512, tuple(entries), {0: "0", 1: "1"}, True), ""
            )
        yield
    finally:
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


def submission(seeds: int, first: int = 0) -> Submission:
    return Submission(spec={"dataset": {"id": "bench"}}, seeds=list(range(first, first + seeds)))


def submit(seeds: int, first: int = 0) -> list[int]:
    with transaction() as session:
        made, _ = experiments.submit(session, DEFAULT_PROJECT, submission(seeds, first), reuse=False)
        return [run.id for run in views.experiment_runs(session, made.id)]


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def result() -> list[SliceScore]:
    counts = (200_000, 300, 20, 500, 60_000, 100, 10, 24, 1190)
    return [SliceScore("val", 0, n, counts, counts, 61_000, 400, 600, 0.9, 0.8, 0.1) for n in range(SLICES)]


def finish() -> int:
    """Claim a run and store a result for it, as a worker does; the run."""
    with transaction() as session:
        work = queue.claim(session, "default", "bench", "bench", 30)
    assert work is not None
    with transaction() as session:
        scores.finish(session, work.claim, result(), {}, 1, Ending(0))
    return work.claim.run_id


def finish_times() -> tuple[list[int], list[float]]:
    """The runs finished, and the milliseconds of each finishing transaction."""
    runs, times = [], []
    submit(RUNS)
    for _ in range(RUNS):
        with transaction() as session:
            work = queue.claim(session, "default", "bench", "bench", 30)
        assert work is not None
        rows = result()

        def store(held: queue.Claim = work.claim, rows: list[SliceScore] = rows) -> None:
            with transaction() as session:
                scores.finish(session, held, rows, {}, 1, Ending(0))

        times.append(milliseconds(store))
        runs.append(work.claim.run_id)
    return runs, times


def copy_against_orm(runs: list[int]) -> tuple[float, float]:
    """Milliseconds for the same rows by COPY and by SQLAlchemy's bulk insert, side by side, without the commit."""
    rows = result()
    values = [dict(zip(scores.COLUMNS[1:], scores._values(row), strict=True)) for row in rows]

    def by_copy(run: int) -> float:
        return in_rollback(lambda session: scores.copy_scores(session, run, rows))

    def by_insert(run: int) -> float:
        return in_rollback(
            lambda session: session.execute(insert(models.SliceScore), [{"run_id": run, **one} for one in values])
        )

    fresh = submit(len(runs), first=1000)
    pairs = [(by_copy(run), by_insert(run)) for run in fresh]
    return median(copy for copy, _ in pairs), median(orm for _, orm in pairs)


def in_rollback(work: Callable[..., object]) -> float:
    with transaction() as session:
        taken = milliseconds(lambda: work(session))
        session.rollback()
    return taken


CLAIMER = """
import json, sys, time
from store import queue
from store.database import transaction
with transaction() as session:
    session.connection()
print("ready", flush=True)
sys.stdin.readline()
start, count = time.time(), 0
while True:
    with transaction() as session:
        if queue.claim(session, "default", "bench", "bench", 30) is None:
            break
    count += 1
print(json.dumps([start, time.time(), count]), flush=True)
"""


def claims_a_second() -> float:
    with transaction() as session:
        for waiting in session.query(models.Run).filter_by(state="queued"):
            queue.move(session, waiting, "cancel")
    submit(CLAIMS, first=10_000)
    claimers = [
        subprocess.Popen([sys.executable, "-c", CLAIMER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for one in claimers:
        assert one.stdout is not None
        one.stdout.readline()
    told = [json.loads(one.communicate("go\n")[0]) for one in claimers_started(claimers)]
    assert sum(count for *_, count in told) == CLAIMS
    return float(CLAIMS / (max(end for _, end, _ in told) - min(start for start, *_ in told)))


def claimers_started(claimers: list["subprocess.Popen[str]"]) -> list["subprocess.Popen[str]"]:
    """Start all at the same moment."""
    for one in claimers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    return claimers


def compare(runs: list[int]) -> float:
    def once() -> None:
        with transaction() as session:
            table = comparison.compare(session, DEFAULT_PROJECT, runs)
        assert all(row.slices == SLICES for row in table.rows)

    once()
    return median(milliseconds(once) for _ in range(20))


def token_checks() -> tuple[list[float], list[float]]:
    """Milliseconds of letting a token in: as the ledger knows it, and as the API remembers it for two seconds."""
    with transaction() as session:
        made = [tokens.issue(session, DEFAULT_PROJECT, f"t{n}", tokens.Scope.READ, "local") for n in range(1000)]
    keyring = Keyring(None, local=False)
    secrets = [secret for _, secret in made[:TOKENS]]
    for secret in secrets:
        keyring.look_up(secret)  # writes that it was used, once a minute
    looked_up = [milliseconds(lambda secret=secret: keyring.look_up(secret)) for secret in secrets]
    recalled = [milliseconds(lambda secret=secret: keyring.recall(secret)) for secret in secrets]
    return looked_up, recalled


def main() -> None:
    with throw_away_home():
        runs, stored = finish_times()
        copy, orm = copy_against_orm(runs)
        compared = compare(runs)
        single = [milliseconds(lambda n=n: submit(1, first=50_000 + n)) for n in range(60)]
        thousand = milliseconds(lambda: submit(1000, first=100_000))
        claims = claims_a_second()
        looked_up, recalled = token_checks()
    lines = [
        (f"finish a run of {SLICES} slices", f"{median(stored):.1f} ms", "aim: below 100 ms"),
        (f"{SLICES} rows by COPY", f"{copy:.1f} ms", ""),
        (f"{SLICES} rows by ORM bulk insert", f"{orm:.1f} ms", f"{orm / copy:.1f} times COPY"),
        (f"claims with {PROCESSES} processes", f"{claims:.0f} /s", ""),
        ("submit one run, p95", f"{quantiles(single, n=20)[-1]:.1f} ms", f"median {median(single):.1f} ms"),
        ("submit 1,000 runs", f"{thousand:.0f} ms", ""),
        (
            "let a token in, p95",
            f"{quantiles(looked_up, n=20)[-1]:.2f} ms",
            f"of 1,000; aim: below 2 ms; median {median(looked_up):.2f} ms, within 2 s {median(recalled):.3f} ms",
        ),
        (f"compare {RUNS} runs of {SLICES} slices", f"{compared:.1f} ms", ""),
    ]
    for what, value, remark in lines:
        print(f"{what:32} {value:>12}   {remark}")


if __name__ == "__main__":
    main()
