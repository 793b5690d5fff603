"""How fast the ledger is, on a throw-away home: python benchmarks/ledger.py

On this machine, with the bundled Postgres and Valkey; targets and whether they are met stand beside the values.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from sqlalchemy import insert

from api.callers import Keyring
from liverseg_core.records import EpochRecord, SliceScore
from liverseg_core.submission import Submission
from store import comparison, experiments, models, queue, scores, tokens
from store.batches import Batch, Finished, Steps
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT

sys.path.insert(0, str(Path(__file__).parent))
from machine import SLICES, durability, ledger, machine
from targets import mention, p95, tell

ROOT = Path(__file__).parent.parent
RUNS, CLAIMS, PROCESSES, TOKENS = 15, 1200, 4, 200
BATCHES, PIECES, STEPS = 200, 4, 50
"""Ingest: a batch is what a heartbeat hands in, here 4 pieces of 50 steps and the epoch they end."""


def submission(seeds: int, first: int = 0) -> Submission:
    return Submission(spec={"dataset": {"id": "bench"}}, seeds=list(range(first, first + seeds)))


def submit(seeds: int, first: int = 0) -> list[int]:
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, submission(seeds, first), reuse=False)
        return [run.id for run in made.runs]


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def result() -> list[SliceScore]:
    counts = (200_000, 300, 20, 500, 60_000, 100, 10, 24, 1190)
    return [SliceScore("val", 0, n, counts, counts, 61_000, 400, 600, 0.9, 0.8, 0.1) for n in range(SLICES)]


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

WRITER = """
import json, sys, time
sys.path.insert(0, "benchmarks")
from ledger import BATCHES, batch
from store import batches, queue
from store.database import transaction
with transaction() as session:
    claim = queue.claim(session, "default", "bench", "bench", 600).claim
todo = [batch(number) for number in range(1, BATCHES + 1)]
print("ready", flush=True)
sys.stdin.readline()
start, count = time.time(), 0
for one in todo:
    with transaction() as session:
        assert batches.record(session, claim, one)
    count += sum(len(piece.losses) for piece in one.steps) + 7 * len(one.epochs)
print(json.dumps([start, time.time(), count]), flush=True)
"""


def together(program: str, processes: int) -> tuple[int, float]:
    """What processes that start at the same moment count in all, and the seconds until the last one has ended."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    told = [json.loads(one.communicate()[0]) for one in started]
    return sum(count for *_, count in told), max(end for _, end, _ in told) - min(start for start, *_ in told)


def claims_a_second() -> float:
    nothing_waits()
    submit(CLAIMS, first=10_000)
    count, seconds = together(CLAIMER, PROCESSES)
    assert count == CLAIMS
    return count / seconds


def values_a_second(processes: int) -> float:
    """Losses and epoch values stored a second, a fenced transaction with a receipt for each batch."""
    nothing_waits()
    submit(processes, first=40_000)
    count, seconds = together(WRITER, processes)
    assert count == processes * BATCHES * (PIECES * STEPS + 7)
    return count / seconds


def nothing_waits() -> None:
    with transaction() as session:
        for waiting in session.query(models.Run).filter_by(state="queued"):
            queue.move(session, waiting, "cancel")


def batch(number: int) -> Batch:
    """An epoch of 200 steps in 4 pieces, as a trainer of 100 steps a second tells them, and the values at its end."""
    losses = tuple(1 / (1 + number + step) for step in range(STEPS))
    steps = [Steps(number, 1 + piece * STEPS, losses) for piece in range(PIECES)]
    record = EpochRecord(number, 0.5, 0.5, 0.6, 0.4, 1e-3, 1.0, 10.0)
    checkpoint = {"epoch": number, "path": f"/checkpoints/epoch-{number:05d}.npz", "sha256": "0" * 64}
    return Batch(number, steps, [Finished(record, checkpoint)])


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
    print(machine())
    with ledger():
        print(durability())
        runs, stored = finish_times()
        copy, orm = copy_against_orm(runs)
        compared = compare(runs)
        single = [milliseconds(lambda n=n: submit(1, first=50_000 + n)) for n in range(100)]
        thousand = median(milliseconds(lambda n=n: submit(1000, first=100_000 + 1000 * n)) for n in range(3))
        claims = sorted(claims_a_second() for _ in range(3))
        ingest = sorted(values_a_second(PROCESSES) for _ in range(3))
        alone = values_a_second(1)
        looked_up, recalled = token_checks()
    tell("claims", claims[1], f"{CLAIMS} runs; of three: {claims[0]:.0f} to {claims[2]:.0f}")
    size = PIECES * STEPS + 7
    tell(
        "ingest",
        ingest[1],
        f"of three: {ingest[0]:,.0f} to {ingest[2]:,.0f}; {size} values a batch; {alone:,.0f} by one",
    )
    tell("finish", median(stored))
    tell("token", p95(looked_up), f"among 1,000; median {median(looked_up):.2f}, within 2 s {median(recalled):.3f}")
    mention("submit one run, in the ledger alone, p95", p95(single), "ms", f"median {median(single):.1f}")
    mention("submit 1,000 runs, in the ledger alone", thousand, "ms")
    mention(f"{SLICES} rows by COPY", copy, "ms")
    mention(f"{SLICES} rows by ORM bulk insert", orm, "ms", f"{orm / copy:.1f} times COPY")
    mention(f"compare {RUNS} runs of {SLICES} slices", compared, "ms")


if __name__ == "__main__":
    main()
