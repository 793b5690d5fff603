"""Where a new attempt goes on: late batches of a dead worker are handed in, damaged checkpoints passed over."""

import hashlib
from pathlib import Path

import pytest

from store import batches, endings, verify
from store.batches import Batch, Finished, Steps
from store.database import transaction
from tests import factories
from tests.store import ledger
from worker import resumption
from worker.spool import Spool

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    return ledger.dataset()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def checkpoint(folder: Path, epoch: int) -> dict:
    """A real file, as a trainer of attempt 1 leaves it."""
    path = folder / "attempt-1" / "checkpoints" / f"epoch-{epoch:05d}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights after epoch %d" % epoch)
    return {"epoch": epoch, "path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def epoch(folder: Path, number: int) -> Finished:
    return Finished(factories.epoch_record(number, loss=1 / number), checkpoint(folder, number))


@pytest.fixture
def lost(folder):
    """A worker that stored epoch 1 and two steps of epoch 2, computed epochs 2 and 3 while the database was away, and
    died; its run, claimed again."""
    held = ledger.claimed()
    with transaction() as session:
        batches.record(session, held, Batch(1, [Steps(1, 1, (0.9, 0.8))], [epoch(folder, 1)]))
        batches.record(session, held, Batch(2, [Steps(2, 1, (0.7,))]))
    spool = Spool(folder / "attempt-1" / "spool")
    spool._last = 2
    spool.add([Steps(2, 2, (0.6,))], [epoch(folder, 2)])
    spool.add([Steps(3, 1, (0.5,))], [])
    spool.add([Steps(3, 2, (0.4,))], [epoch(folder, 3)])
    spool.add([Steps(4, 1, (0.3,))], [])
    ledger.execute("UPDATE runs SET lease_until = clock_timestamp()")
    with transaction() as session:
        assert endings.reap(session, 0, 3) == [held.run_id]
    return ledger.claim()


def live(table: str, columns: str) -> list:
    return ledger.rows(f"SELECT {columns} FROM {table} WHERE archived_at IS NULL ORDER BY 1, 2")


def test_epochs_computed_during_an_outage_outlive_their_worker(lost, folder):
    path = resumption.checkpoint(lost.claim, lost.checkpoint, folder)
    assert Path(path).name == "epoch-00003.npz"
    assert live("epochs", "epoch, attempt, loss") == [(1, 1, 1.0), (2, 1, 0.5), (3, 1, 1 / 3)]
    assert live("step_losses", "epoch, first, losses") == [
        (1, 1, [0.9, 0.8]),
        (2, 1, [0.7]),
        (2, 2, [0.6]),
        (3, 1, [0.5]),
        (3, 2, [0.4]),
    ]  # the step of epoch 4 has no checkpoint behind it and will be taken again
    assert ledger.run(lost.claim.run_id).checkpoint["epoch"] == 3
    with transaction() as session:
        assert [str(one) for one in verify.verify(session) if not one.holds] == []


def test_handing_in_twice_is_once(lost, folder):
    first = resumption.checkpoint(lost.claim, lost.checkpoint, folder)
    known = ledger.run(lost.claim.run_id).checkpoint
    before = ledger.everything()
    assert resumption.checkpoint(lost.claim, known, folder) == first
    assert ledger.everything() == before


def test_an_epoch_whose_checkpoint_is_damaged_is_computed_again(lost, folder):
    (folder / "attempt-1" / "checkpoints" / "epoch-00003.npz").write_bytes(b"torn")
    assert Path(resumption.checkpoint(lost.claim, lost.checkpoint, folder)).name == "epoch-00002.npz"
    assert [number for number, _ in live("epochs", "epoch, attempt")] == [1, 2]


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_then_to_the_start(folder):
    held = ledger.claimed()
    with transaction() as session:
        batches.record(session, held, Batch(1, (), [epoch(folder, 1), epoch(folder, 2)]))
    for damaged, expected in ((2, "epoch-00001.npz"), (1, None)):
        (folder / "attempt-1" / "checkpoints" / f"epoch-{damaged:05d}.npz").write_bytes(b"torn")
        found = resumption.checkpoint(held, ledger.run(held.run_id).checkpoint, folder)
        assert (found and Path(found).name) == expected
    assert live("epochs", "epoch, attempt") == []
