"""Transactions that commit while their caller sees an error: one in twenty of each kind that a run goes through.

Nothing here is fake but the network: claims, heartbeats, spool, batches and endings are those of a real worker, with
several threads. ``LIVERSEG_LOST_REPLIES`` is the probability.
"""

import dataclasses
import json
import os
import queue
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from liverseg_core.data.manifest import Manifest
from liverseg_core.records import ExperimentResult
from store import artifacts, experiments
from store.database import engine, is_outage, transaction
from store.models import DEFAULT_PROJECT
from store.upkeep import Upkeep
from store.verify import verify
from tests import factories
from tests.conftest import forget_caches
from tests.store import ledger
from worker import attempt as attempts
from worker.reporting import CRASHED, report

LOST = float(os.environ.get("LIVERSEG_LOST_REPLIES", "0.05"))
RUNS, THREADS, EPOCHS, STEPS = 200, 4, 3, 2
KINDS = {"submit_once": "submit", "_claim": "claim", "_beat": "heartbeat", "_record": "batch", "_end": "finish"}
"""The innermost of these functions that commits, and what it commits."""


class Replies:
    """Loses replies to commits, the same ones of each kind every time; counts all and the lost ones."""

    def __init__(self) -> None:
        self.all, self.lost = Counter[str](), Counter[str]()
        self._lock, self._draws = threading.Lock(), {kind: random.Random(kind) for kind in KINDS.values()}

    def loses(self) -> bool:
        names = (frame.f_code.co_name for frame, _ in traceback.walk_stack(None))
        kind = next((KINDS[name] for name in names if name in KINDS), None)
        if kind is None:
            return False
        with self._lock:
            lost = self._draws[kind].random() < LOST
            self.all[kind] += 1
            self.lost[kind] += lost
        return lost


@pytest.fixture
def replies(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replies]:
    """From now on replies get lost: the driver's own commit, done and then denied, on a connection that is gone."""
    monkeypatch.setenv("LIVERSEG_HEARTBEAT_S", "0.05")
    forget_caches()
    made = Replies()

    class Forgetful(psycopg.Connection[Any]):
        def commit(self) -> None:
            super().commit()
            if made.loses():
                self.pgconn.finish()
                raise psycopg.OperationalError("the reply to a commit was lost")

    event.listen(
        engine(), "do_connect", lambda _dialect, _record, words, options: Forgetful.connect(*words, **options)
    )
    yield made
    monkeypatch.undo()
    forget_caches()


class Pretended:
    """A trainer without a process and without a network: what it tells follows from seed, epoch and step."""

    log: Path | None = None
    peak_memory_mb: int | None = None

    def __init__(self, _surroundings: object) -> None:
        self._job: dict[str, Any] = {}
        self._status = CRASHED
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def send(self, job: dict[str, Any], _log: Path, _held: Sequence[int] = ()) -> None:
        self._job = job
        self._thread.start()

    def next_event(self, timeout: float) -> dict[str, Any] | None:
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def ended(self) -> bool:
        return not self._thread.is_alive() and self._events.empty()

    def note_memory(self) -> None: ...

    def ask(self) -> None: ...

    def kill(self) -> int:
        self._thread.join()
        return self._status

    def tail(self, _most: int = 0) -> str:
        return ""

    def _run(self) -> None:
        self._status = report(self._tell, self._train)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._events.put({"event": kind, **fields})

    def _train(self) -> ExperimentResult:
        kept, seed = self._job["checkpoint"], self._job["spec"]["training"]["seed"]
        for epoch in range(json.loads(Path(kept).read_text()) + 1 if kept else 1, EPOCHS + 1):
            self._tell("steps", epoch=epoch, first=1, losses=[loss(seed, epoch, step) for step in range(STEPS)])
            path = Path(self._job["work"]) / "checkpoints" / f"epoch-{epoch:05d}.npz"
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(epoch))
            record = factories.epoch_record(epoch, loss=loss(seed, epoch))
            checkpoint = {"epoch": epoch, "path": str(path), "sha256": artifacts.sha256_of(path)}
            self._tell("epoch", record=dataclasses.asdict(record), checkpoint=checkpoint)
        rows = factories.scores_for(Manifest.from_json(self._job["manifest"]))
        weights = Path(self._job["work"]) / "weights.npz"
        weights.write_text(f"weights of {seed}")
        files = {"weights": weights}
        return ExperimentResult(scores=rows, components=[], artifacts=files, best_epoch=EPOCHS, epochs=EPOCHS)


def loss(*numbers: int) -> float:
    return random.Random(str(numbers)).random()


def submit_once(seed: int) -> int:
    spec = factories.tiny_spec(training={"batch_size": 4, "epochs": EPOCHS, "seed": seed})
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(spec), key=f"key-{seed}")
        return made.experiment.id


def insistently(work: Callable[[], Any]) -> Any:
    """Do ``work`` again while its caller is told that the database is away."""
    while True:
        try:
            return work()
        except DBAPIError as error:
            if not is_outage(error):
                raise


def carry() -> None:
    """What a slot of a worker does, until every run has ended."""
    while ledger.rows("SELECT 1 FROM runs WHERE finished_at IS NULL LIMIT 1"):
        attempts.attempt("default", "test-worker", threads=1)


def test_no_lost_reply_makes_anything_twice_or_never(
    replies: Replies,
    upkeep: Upkeep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(attempts.trainers, "take", Pretended)
    (tmp_path / "slices.zip").write_bytes(b"of a data set")
    artifacts.put(tmp_path / "slices.zip")  # nobody claims a run while the artifact folder is empty
    dataset = ledger.dataset()
    with ThreadPoolExecutor(2 * THREADS) as threads:
        made = [threads.submit(insistently, lambda seed=seed: submit_once(seed)) for seed in range(RUNS)]
        again = [threads.submit(insistently, lambda seed=seed: submit_once(seed)) for seed in range(RUNS)]
        assert [one.result() for one in made] == [one.result() for one in again]
        for slot in [threads.submit(carry) for _ in range(THREADS)]:
            slot.result()
    with capsys.disabled():
        print(f"\ncommits {dict(replies.all)}, replies lost {dict(replies.lost)}")  # noqa: T201
    assert set(replies.lost) == set(KINDS.values())
    assert min(replies.lost.values()) > 0
    assert_everything_is_there_once(Manifest.from_json(dataset.manifest))


def assert_everything_is_there_once(manifest: Manifest) -> None:
    seeds = ledger.rows("SELECT id, (spec->'training'->>'seed')::int FROM runs ORDER BY id")
    assert sorted(seed for _, seed in seeds) == list(range(RUNS))
    assert ledger.rows("SELECT count(*) FROM experiments") == [(RUNS,)]
    live = "FROM {} WHERE archived_at IS NULL ORDER BY 1, 2"
    epochs = ledger.rows(f"SELECT run_id, epoch, loss {live.format('epochs')}")
    assert epochs == [(run, epoch, loss(seed, epoch)) for run, seed in seeds for epoch in range(1, EPOCHS + 1)]
    steps = ledger.rows(f"SELECT run_id, epoch, losses {live.format('step_losses')}")
    assert steps == [
        (run, epoch, [loss(seed, epoch, step) for step in range(STEPS)])
        for run, seed in seeds
        for epoch in range(1, EPOCHS + 1)
    ]
    wanted = len(factories.scores_for(manifest))
    scored = ledger.rows(
        "SELECT run_id, count(*), count(DISTINCT (scan, slice)) FROM slice_scores GROUP BY 1 ORDER BY 1"
    )
    assert scored == [(run, wanted, wanted) for run, _ in seeds]
    assert ledger.rows("SELECT DISTINCT outcome FROM attempts ORDER BY 1") == [("preempted",), ("succeeded",)]
    assert ledger.rows("SELECT DISTINCT crashes FROM runs") == [(0,)]  # a lost reply is no crash
    ended = Counter(run for (run,) in ledger.rows("SELECT run_id FROM run_events WHERE move = 'succeed'"))
    assert ended == {run: 1 for run, _ in seeds}
    with transaction() as session:
        assert [str(one) for one in verify(session) if not one.holds] == []
