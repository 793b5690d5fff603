"""Kill something in the middle of a run: the run still succeeds once, with nothing missing and nothing twice."""

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from store import bundled, experiments, views, wishes
from store.database import transaction
from store.models import DEFAULT_PROJECT, Dataset
from store.upkeep import Upkeep
from tests import factories, processes
from tests.conftest import SERVERS, broker_client

EPOCHS = 30
"""So many that none is over when it is killed in one of its first: an epoch takes 50 ms on a fast machine."""


@pytest.fixture
def dataset(database: Path, tmp_path: Path) -> Dataset:
    return factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)


def submit(epochs: int = EPOCHS) -> int:
    spec = factories.tiny_spec(
        data={"image_size": 64},
        training={"batch_size": 4, "epochs": epochs, "early_stopping": {"patience": None}},
    )
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(spec))
        return made.runs[0].id


def assert_succeeded_once(run_id: int, dataset: Dataset, log: Path, epochs: int = EPOCHS) -> list[str]:
    """The run's outcomes by attempt, after checking that it is whole."""
    run = processes.wait_for_end(run_id)
    assert run.state == "succeeded", (run.message, log.read_text())
    evaluated = [[e["part"], e["scan"], e["slice"]] for e in dataset.manifest["slices"] if e["part"] != "train"]
    with transaction() as session:
        rows = session.execute(
            text("SELECT part, scan, slice FROM slice_scores WHERE run_id = :run"), {"run": run_id}
        )
        assert sorted(map(list, rows)) == sorted(evaluated)
        assert [epoch.epoch for epoch in views.epochs(session, run_id)] == list(range(1, epochs + 1))
        moves = [event.move for event in views.events(session, run_id)]
        outcomes = [attempt.outcome for attempt in views.attempts(session, run_id)]
    processes.assert_ledger_holds()
    assert moves.count("succeed") == 1
    assert outcomes.count("succeeded") == 1
    return outcomes


def test_sigkill_of_the_trainer(dataset: Dataset, tmp_path: Path, upkeep: Upkeep) -> None:
    run_id, log = submit(), tmp_path / "worker.log"
    with processes.worker(log) as worker:
        processes.wait_for_epoch(run_id, 3)
        processes.trainers(worker)[0].kill()
        assert assert_succeeded_once(run_id, dataset, log) == ["crashed", "succeeded"]
    with transaction() as session:
        first, second = views.attempts(session, run_id)
    assert first.exit_code == -signal.SIGKILL
    assert second.resumed_from >= 3


def test_sigkill_of_the_whole_worker_tree(dataset: Dataset, tmp_path: Path, upkeep: Upkeep) -> None:
    run_id, log = submit(), tmp_path / "worker.log"
    doomed = processes.start_worker(log)
    processes.wait_for_epoch(run_id, 3)
    processes.kill_tree(doomed)
    with processes.worker(log):
        assert assert_succeeded_once(run_id, dataset, log) == ["lost", "succeeded"]
    with transaction() as session:
        first, second = views.attempts(session, run_id)
    assert second.resumed_from >= 3
    assert {"host", "device", "processor"} <= first.provenance.keys()  # its last heartbeats told it
    assert first.peak_memory_mb > 100


def test_sigkill_of_the_worker_alone_ends_its_trainer(dataset: Dataset, tmp_path: Path, upkeep: Upkeep) -> None:
    run_id, log = submit(epochs=100_000), tmp_path / "worker.log"
    worker = processes.start_worker(log)
    processes.wait_for_epoch(run_id, 2)
    (orphan,) = processes.trainers(worker)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    processes.wait_for("the orphan to end", lambda: not orphan.is_running(), timeout=60)
    processes.wait_for("its run to be taken back", lambda: processes.get_run(run_id).state == "queued")
    with transaction() as session:
        assert [one.outcome for one in views.attempts(session, run_id)] == ["lost"]


def test_sigkill_and_flushall_of_valkey(dataset: Dataset, tmp_path: Path, upkeep: Upkeep) -> None:
    """Two runs: one is training, the other waits with its only announcement in the broker."""
    first, second, log = submit(), submit(epochs=3), tmp_path / "worker.log"
    with processes.worker(log):
        processes.wait_for_epoch(first, 3)
        broker_client(Path(os.environ["LIVERSEG_HOME"])).flushall()
        SERVERS["valkey"].process.kill()
        SERVERS["valkey"].process.wait()
        SERVERS["valkey"] = bundled.start_valkey(Path(os.environ["LIVERSEG_HOME"]))
        assert assert_succeeded_once(first, dataset, log) == ["succeeded"]
        assert assert_succeeded_once(second, dataset, log, epochs=3) == ["succeeded"]


def test_sigterm_gives_the_run_back_and_burns_nothing(dataset: Dataset, tmp_path: Path, upkeep: Upkeep) -> None:
    run_id, log = submit(), tmp_path / "worker.log"
    with processes.worker(log):
        processes.wait_for_epoch(run_id, 2)
    assert (processes.get_run(run_id).state, processes.get_run(run_id).crashes) == ("queued", 0)
    with processes.worker(log):
        assert assert_succeeded_once(run_id, dataset, log) == ["preempted", "succeeded"]


def test_cancel_ends_a_running_run(dataset: Dataset, tmp_path: Path, upkeep: Upkeep) -> None:
    run_id, log = submit(epochs=500), tmp_path / "worker.log"
    with processes.worker(log) as worker:
        processes.wait_for_epoch(run_id, 1)
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, run_id)
        assert processes.wait_for_end(run_id, timeout=20).state == "cancelled"
        with transaction() as session:
            (attempt,) = views.attempts(session, run_id)
        if attempt.outcome == "lost":  # this machine kept the worker from its heartbeats, so the reaper ended the run
            processes.wait_for("its trainer to be gone", lambda: not processes.trainers(worker), timeout=20)
        assert processes.trainers(worker) == []


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_is_passed_over(dataset: Dataset, tmp_path: Path, upkeep: Upkeep, damaged: int) -> None:
    """One damaged: the one before it is taken; both: training begins again."""
    run_id, log = submit(), tmp_path / "worker.log"
    with processes.worker(log):
        processes.wait_for_epoch(run_id, 2)
    kept = processes.get_run(run_id).checkpoint
    for one in (kept, kept["before"])[:damaged]:
        path = Path(one["path"])
        path.write_bytes(path.read_bytes()[:-100])
    with processes.worker(log):
        assert_succeeded_once(run_id, dataset, log)
    with transaction() as session:
        archived = session.scalar(
            text("SELECT count(*) FROM epochs WHERE run_id = :run AND archived_at IS NOT NULL"), {"run": run_id}
        )
        assert archived == (1 if damaged == 1 else kept["epoch"])
        assert views.attempts(session, run_id)[-1].resumed_from == (kept["epoch"] - 1 if damaged == 1 else 0)
