"""One attempt with a real trainer process, a real database, and no Celery in between."""

import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text

from liverseg_core.data.archive import read_archive
from liverseg_core.spec import ExperimentSpec, ModelOptions
from liverseg_core.weights import network_shapes, write_weights
from store import artifacts, batches, broker, bundled, experiments, hardware, queue, scores, views, wishes
from store.database import transaction
from store.models import DEFAULT_PROJECT, StepLosses
from store.settings import settings
from store.upkeep import Upkeep
from tests import factories, processes
from tests.conftest import SERVERS, forget_caches, only_reading
from tests.store import ledger
from worker import app
from worker import attempt as attempts
from worker.attempt import attempt
from worker.patience import Drain
from worker.slots import Slots


def submit(spec: dict | None = None) -> int:
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(spec))
        return made.runs[0].id


def once() -> int | None:
    return attempt("default", "test-worker", threads=1)


def outcomes(run_id: int) -> list[str]:
    with transaction() as session:
        return [row.outcome for row in views.attempts(session, run_id)]


def test_nothing_to_claim_returns_at_once(database: Path) -> None:
    assert once() is None


def test_a_draining_worker_claims_nothing(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit()
    stopped = Drain()
    stopped.set()
    monkeypatch.setattr(attempts, "draining", stopped)
    assert once() is None
    assert processes.get_run(run_id).state == "queued"


@pytest.mark.parametrize("leaves", ["draining", "closing"])
def test_a_worker_that_leaves_hands_on_what_was_announced_to_it(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    told = Drain()
    monkeypatch.setattr(attempts, leaves, told)
    monkeypatch.setattr(app, leaves, told)
    hears = app.make_app(1, Slots(1, "test-worker")).tasks[broker.ATTEMPT_TASK]
    hears()
    told.set()
    hears()
    assert ledger.rows("SELECT run_id, number FROM outbox") == []  # nothing waits
    factories.import_phantom(tmp_path)
    run_id = submit()
    ledger.execute("DELETE FROM outbox")  # announced, to us
    hears()
    assert ledger.rows("SELECT run_id, number FROM outbox") == [(run_id, 2)]
    assert processes.get_run(run_id).state == "queued"


def test_an_attempt_leaves_a_result_and_no_checkpoint(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit()
    assert once() == run_id
    run = processes.get_run(run_id)
    assert (run.state, run.fence, run.crashes, run.progress) == ("succeeded", 1, 0, None)
    assert run.best_epoch in (1, 2)
    assert not (database / "checkpoints" / str(run_id)).exists()
    with transaction() as session:
        log = artifacts.locate(scores.files(session, run_id)["log"]).read_text().splitlines()
        epochs = views.epochs(session, run_id)
    said = [line.split(" ", 2)[2] for line in log]  # after date and time
    assert said[:2] == ["loading", "building"]
    assert [line.partition(", Dice")[0] for line in said if line.startswith("epoch")] == [
        f"epoch {one.epoch}: loss {one.loss:.4f}" for one in epochs
    ]


def test_while_it_goes_on_its_heartbeats_carry_the_last_lines_of_its_log(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    endless = {"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}}
    run_id = submit(factories.tiny_spec(training=endless))
    working = threading.Thread(target=once)
    working.start()

    def log() -> list[str]:
        return str((processes.get_run(run_id).progress or {}).get("log", "")).splitlines()

    def late() -> list[str]:
        shown = log()
        return shown if any(int(epoch) >= 30 for epoch in re.findall(r" epoch (\d+):", "\n".join(shown))) else []

    shown = processes.wait_for("the last of thirty epochs or more in the log", late)
    assert sum(map(len, shown)) <= attempts.LOG_SHOWN
    assert all(line[:4].isdecimal() for line in shown)  # no line is torn
    assert not any("loading" in line for line in shown)  # 30 epochs are more than is shown
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
    working.join(60)
    assert processes.get_run(run_id).progress is None


def test_a_paused_run_goes_on_within_the_epoch_that_it_had_begun(database: Path, tmp_path: Path) -> None:
    """Its epochs take seconds: what it has come to is seen half a second later, and so is the wish."""
    factories.import_phantom(tmp_path, slices=40)
    model, training = {"filters": 8, "depth": 2}, {"batch_size": 1, "epochs": 2}
    run_id = submit(factories.tiny_spec(data={"image_size": 160}, model=model, training=training))
    working = threading.Thread(target=once)
    working.start()

    def second_epoch() -> bool:
        told = processes.get_run(run_id).progress or {}
        return told.get("epoch") == 2 and told.get("step", 0) < told["steps"]

    processes.wait_for("its second epoch", second_epoch)
    with transaction() as session:
        wishes.pause(session, DEFAULT_PROJECT, run_id)
    working.join(60)
    assert processes.get_run(run_id).state == "paused"
    with transaction() as session:
        wishes.resume(session, DEFAULT_PROJECT, run_id)
    assert once() == run_id
    assert processes.get_run(run_id).state == "succeeded"
    with transaction() as session:
        kept = artifacts.locate(scores.files(session, run_id)["log"]).read_text()
        shown = select(StepLosses).where(StepLosses.archived_at.is_(None))
        losses = session.scalars(shown.order_by(StepLosses.epoch, StepLosses.first)).all()
        epochs = {one.epoch: one for one in views.epochs(session, run_id)}
    within = re.search(r"goes on within epoch 2, after step (\d+)\n", kept)
    assert within is not None
    done = int(within[1])
    for epoch, attempts_of in ((1, {1}), (2, {2})):
        rows = [row for row in losses if row.epoch == epoch]
        assert {row.attempt for row in rows} == attempts_of
        curve = [loss for row in rows for loss in row.losses]
        assert [row.first for row in rows] == [
            1 + sum(len(r.losses) for r in rows[:place]) for place in range(len(rows))
        ]
        assert sum(curve) / len(curve) == pytest.approx(epochs[epoch].loss)
    assert 0 < done < len(curve)


def test_imported_weights_are_evaluated_not_trained(database: Path, tmp_path: Path) -> None:
    """All-zero weights give a sigmoid of 0.5 everywhere: class 'parenchyma' (1/3 <= p < 2/3) in every pixel."""
    import numpy as np

    factories.import_phantom(tmp_path)
    arrays = [np.zeros(shape, np.float32) for _, shape in network_shapes(ModelOptions(filters=2, depth=2))]
    write_weights(tmp_path / "weights.npz", arrays, ModelOptions(filters=2, depth=2))
    stored = artifacts.put(tmp_path / "weights.npz")
    with transaction() as session:
        made = experiments.submit_weights(
            session, DEFAULT_PROJECT, ExperimentSpec.parse(factories.tiny_spec()), stored.sha256
        )
        run_id = made.runs[0].id
    assert once() == run_id
    assert processes.get_run(run_id).state == "succeeded"
    with transaction() as session:
        assert views.epochs(session, run_id) == []
        row = session.execute(
            text(
                "SELECT count(*), sum(n00 + n10 + n20), sum(n02 + n12 + n22), sum(n01 + n11 + n21) FROM slice_scores"
            )
        ).one()
    assert (row[1], row[2]) == (0, 0)
    assert row[3] == row[0] * 32 * 32


def test_a_run_that_kills_its_trainer_every_time_is_dead_after_three(database: Path, tmp_path: Path) -> None:
    dataset = factories.import_phantom(tmp_path, seed=5)  # never cached
    run_id = submit()
    (database / "cache").mkdir(exist_ok=True)
    (database / "cache" / dataset.content_hash).touch()  # a file where the cache needs a folder
    assert [once(), once(), once(), once()] == [run_id, run_id, run_id, None]
    run = processes.get_run(run_id)
    assert (run.state, run.reason, run.crashes) == ("dead", "crashed-too-often", 3)
    assert "NotADirectoryError" in run.message
    assert outcomes(run_id) == ["crashed"] * 3
    with transaction() as session:  # the message is one line, the log has the trace, also of a dead run
        kept = [views.attempt_log(session, run_id, number) for number in (1, 2, 3, None)]
    assert all(log.count("Traceback (most recent call last)") == 1 and "NotADirectoryError" in log for log in kept)


def test_a_damaged_data_set_fails_the_run_with_the_reason(database: Path, tmp_path: Path) -> None:
    dataset = factories.import_phantom(tmp_path, seed=6)  # never cached
    run_id = submit()
    place = artifacts.locate(dataset.artifact)
    data = bytearray(place.read_bytes())
    data[100:2000] = bytes(1900)
    place.write_bytes(bytes(data))
    assert once() == run_id
    run = processes.get_run(run_id)
    assert (run.state, run.reason) == ("failed", "bad-input")
    assert outcomes(run_id) == ["failed"]


DEAF = """
import signal, time
from worker import trainer
trainer.receive(trainer.Reporter(None))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


@pytest.fixture
def quick(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Heartbeats every tenth of a second, a lease of one second, a grace of three."""
    for name, value in (("HEARTBEAT_S", "0.1"), ("LEASE_S", "1"), ("GRACE_S", "3")):
        monkeypatch.setenv(f"LIVERSEG_{name}", value)
    forget_caches()
    yield
    monkeypatch.undo()
    forget_caches()


@pytest.mark.usefixtures("quick")
def test_a_stubborn_trainer_is_killed_after_the_grace_while_its_lease_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grace is longer than the lease: without heartbeats meanwhile the reaper would call it lost."""
    factories.import_phantom(tmp_path)
    run_id = submit()
    monkeypatch.setattr("worker.child.TRAINER", (sys.executable, "-c", DEAF))
    working = threading.Thread(target=once)
    working.start()
    log = settings().checkpoints / str(run_id) / "attempt-1" / "trainer.log"
    processes.wait_for("the trainer", lambda: log.is_file() and log.read_text() == "deaf\n")
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
        asked_at = session.scalar(text("SELECT clock_timestamp()"))
    asked, leases = time.monotonic(), {asked_at}
    while working.is_alive():
        leases.add(processes.get_run(run_id).lease_until or asked_at)
        time.sleep(0.05)
    assert 3 <= time.monotonic() - asked < 60
    assert max(leases) > asked_at + timedelta(seconds=2 * settings().lease_s)
    assert len(leases) > 6  # some thirty where nothing else keeps the machine busy
    assert processes.get_run(run_id).state == "cancelled"
    assert outcomes(run_id) == ["cancelled"]


def test_a_worker_that_lost_its_run_kills_its_trainer_and_writes_nothing(
    database: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit(
        factories.tiny_spec(training={"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}})
    )
    thread = threading.Thread(target=once)
    thread.start()
    processes.wait_for_epoch(run_id, 1)
    with transaction() as session:  # as the reaper and another worker would
        session.execute(text("UPDATE runs SET fence = fence + 1 WHERE id = :run"), {"run": run_id})
    thread.join(30)
    assert not thread.is_alive()
    with transaction() as session:
        written = len(views.epochs(session, run_id))
    run = processes.get_run(run_id)
    assert (run.state, run.fence) == ("running", 2)
    assert run.checkpoint["epoch"] == written
    assert outcomes(run_id) == ["running"]


def test_heartbeats_tell_what_a_lost_worker_could_not_tell_at_its_end(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit(factories.tiny_spec(training=LONG))
    thread = threading.Thread(target=once)
    thread.start()

    def told() -> bool:
        with transaction() as session:
            found = views.attempts(session, run_id)
        return any("device" in (row.provenance or {}) and (row.peak_memory_mb or 0) > 100 for row in found)

    processes.wait_for("host, device and memory of a running attempt", told)
    with transaction() as session:  # as the reaper and another worker would
        session.execute(text("UPDATE runs SET fence = fence + 1 WHERE id = :run"), {"run": run_id})
    thread.join(30)
    assert not thread.is_alive()
    assert outcomes(run_id) == ["running"]  # it wrote nothing at its end
    assert told()


def test_training_goes_on_while_postgres_is_killed_and_comes_back(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit(
        factories.tiny_spec(training={"batch_size": 4, "epochs": 80, "early_stopping": {"patience": None}})
    )
    thread = threading.Thread(target=once)
    thread.start()
    processes.wait_for_epoch(run_id, 1)
    SERVERS["postgres"].process.kill()
    SERVERS["postgres"].process.wait()
    SERVERS["postgres"] = bundled.start_postgres(database)
    thread.join(240)
    assert processes.get_run(run_id).state == "succeeded"
    assert outcomes(run_id) == ["succeeded"]
    with transaction() as session:
        assert [row.epoch for row in views.epochs(session, run_id)] == list(range(1, 81))


def test_a_worker_that_is_asked_to_end_does_not_wait_for_postgres_for_ever(
    database: Path, tmp_path: Path, upkeep: Upkeep
) -> None:
    factories.import_phantom(tmp_path)
    training = {"batch_size": 4, "epochs": 100, "early_stopping": {"patience": None}}
    run_id, log = submit(factories.tiny_spec(training=training)), tmp_path / "worker.log"
    doomed = processes.start_worker(log)
    processes.wait_for_epoch(run_id, 1)
    SERVERS["postgres"].process.kill()
    SERVERS["postgres"].process.wait()
    try:
        doomed.terminate()
        assert doomed.wait(60) == 0, log.read_text()  # a lease is 4 s here, until a trainer is killed 10
    finally:
        SERVERS["postgres"] = bundled.start_postgres(database)
    assert "the database is still away, and this worker ends without it" in log.read_text()
    with processes.worker(log):
        processes.wait_for("another to take it", lambda: processes.get_run(run_id).fence == 2)
    assert outcomes(run_id)[0] == "lost"
    with transaction() as session:
        assert views.attempts(session, run_id)[1].resumed_from >= 1


def test_training_goes_on_while_postgres_only_reads(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    training = {"batch_size": 4, "epochs": 80, "early_stopping": {"patience": None}}
    run_id = submit(factories.tiny_spec(training=training))
    thread = threading.Thread(target=once)
    thread.start()
    processes.wait_for_epoch(run_id, 1)
    with only_reading(database):
        time.sleep(0.5)
        before = processes.get_run(run_id)
        time.sleep(3)
        after = processes.get_run(run_id)
        assert (after.lease_until, after.checkpoint) == (before.lease_until, before.checkpoint)
        assert after.state == "running"
    thread.join(240)
    assert processes.get_run(run_id).state == "succeeded"
    assert outcomes(run_id) == ["succeeded"]
    with transaction() as session:
        assert [row.epoch for row in views.epochs(session, run_id)] == list(range(1, 81))


def test_a_cancel_that_comes_first_wins_over_the_result(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit(
        factories.tiny_spec(training={"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}})
    )
    thread = threading.Thread(target=once)
    thread.start()
    processes.wait_for("the run to start", lambda: processes.get_run(run_id).state == "running")
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
    thread.join(30)
    assert processes.get_run(run_id).state == "cancelled"
    assert outcomes(run_id) == ["cancelled"]


def test_a_lost_data_set_fails_the_run_with_advice(database: Path, tmp_path: Path) -> None:
    dataset = factories.import_phantom(tmp_path, seed=7)  # never cached
    run_id = submit()
    artifacts.locate(dataset.artifact).unlink()
    assert once() == run_id
    run = processes.get_run(run_id)
    assert (run.state, run.reason) == ("failed", "bad-input")
    assert "import the data set again" in run.message


LONG = {"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}}


def checkpoints_on_disk(database: Path, run_id: int) -> list[str]:
    return sorted(path.name for path in (database / "checkpoints" / str(run_id)).glob("*/checkpoints/epoch-*.npz"))


def test_no_committed_checkpoint_is_deleted_while_the_database_is_away(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer runs epochs ahead of a ledger that does not answer; the worker dies before it catches up."""
    factories.import_phantom(tmp_path)
    run_id = submit(factories.tiny_spec(training=LONG))
    away, dead = threading.Event(), threading.Event()
    record = batches.record

    def hang(*arguments: Any) -> None:
        if processes.get_run(run_id).checkpoint and arguments[2].epochs:
            away.set()
            dead.wait(240)
            raise queue.LeaseLost
        record(*arguments)

    monkeypatch.setattr(batches, "record", hang)
    thread = threading.Thread(target=once)
    thread.start()
    assert away.wait(240)
    processes.wait_for("epochs ahead", lambda: len(checkpoints_on_disk(database, run_id)) > 6)
    dead.set()
    thread.join(30)
    assert not thread.is_alive()
    assert Path(processes.get_run(run_id).checkpoint["path"]).is_file()


def test_checkpoints_older_than_the_committed_one_are_deleted(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit(factories.tiny_spec(training=LONG))
    thread = threading.Thread(target=once)
    thread.start()
    processes.wait_for_epoch(run_id, 5)
    with transaction() as session:
        session.execute(text("UPDATE runs SET fence = fence + 1 WHERE id = :run"), {"run": run_id})
    thread.join(30)
    committed = Path(processes.get_run(run_id).checkpoint["path"]).name
    assert checkpoints_on_disk(database, run_id)[1] == committed  # and the one before it, to fall back to


def kill_trainer_after(run_id: int, epoch: int) -> None:
    """Carry the run until its epoch is stored, then kill its trainer."""
    thread = threading.Thread(target=once)
    thread.start()
    processes.wait_for_epoch(run_id, epoch)
    for child in psutil.Process().children(recursive=True):
        if processes.trains(child):
            child.kill()
    thread.join(30)


def test_a_requeued_run_goes_on_from_its_checkpoint(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.import_phantom(tmp_path)
    monkeypatch.setenv("LIVERSEG_MAX_CRASHES", "1")
    settings.cache_clear()
    run_id = submit(factories.tiny_spec(training={**LONG, "epochs": 100}))
    kill_trainer_after(run_id, 2)
    assert processes.get_run(run_id).state == "dead"
    with transaction() as session:
        wishes.requeue(session, DEFAULT_PROJECT, run_id)
    assert once() == run_id
    assert processes.get_run(run_id).state == "succeeded"
    with transaction() as session:
        assert views.attempts(session, run_id)[1].resumed_from >= 2
        assert hardware.resumed_elsewhere(session, [run_id]) == {}
        assert [row.epoch for row in views.epochs(session, run_id)] == list(range(1, 101))
    settings.cache_clear()


def test_a_run_resumed_with_other_threads_is_marked(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit(factories.tiny_spec(training={**LONG, "epochs": 100}))
    kill_trainer_after(run_id, 2)
    assert attempt("default", "test-worker", threads=2) == run_id
    with transaction() as session:
        first, second = views.attempts(session, run_id)
        marked = hardware.resumed_elsewhere(session, [run_id])
        told = [(one.move, one.attempt, one.detail) for one in views.events(session, run_id)][-2:]
    assert "changed_from" not in first.provenance
    assert second.provenance["changed_from"] == {"threads": "1"}
    after = f"attempt 2 after epoch {second.resumed_from}"
    assert marked == {run_id: f"Resumed on different hardware: {after} (threads 1, then 2)."}
    assert told == [
        ("elsewhere", 2, "resumed on different hardware: threads 1, then 2"),
        ("succeed", 2, None),
    ]


def test_an_error_of_the_worker_itself_is_told_as_what_it_is(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.import_phantom(tmp_path)
    run_id = submit()
    (database / "checkpoints").mkdir(exist_ok=True)
    (database / "checkpoints" / str(run_id)).touch()  # a file where the attempt needs a folder
    assert once() == run_id
    (database / "checkpoints" / str(run_id)).unlink()
    assert (processes.get_run(run_id).state, processes.get_run(run_id).crashes) == ("queued", 1)
    with transaction() as session:
        assert "the worker itself failed" in views.attempts(session, run_id)[0].message


def test_a_result_succeeds_only_with_one_score_for_each_slice(tmp_path: Path) -> None:
    manifest = read_archive(factories.tiny_archive(tmp_path))
    rows = factories.scores_for(manifest)
    attempts._demand_every_slice(factories.tiny_spec(), manifest, rows)
    for wrong in (rows[1:], [*rows, rows[0]], []):
        with pytest.raises(RuntimeError, match=f"{len(wrong)} scores came, not one for each of {len(rows)}"):
            attempts._demand_every_slice(factories.tiny_spec(), manifest, wrong)
