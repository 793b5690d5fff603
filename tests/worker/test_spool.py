"""Batches on disk until they are delivered: in order, each whole, damaged ones seen."""

import pytest

from store.batches import Batch, Finished, Steps
from tests import factories
from worker.spool import Spool, left_behind

CHECKPOINT = {"epoch": 1, "path": "/somewhere", "sha256": "0" * 64}


@pytest.fixture
def full(tmp_path):
    """Three batches that could not be delivered."""
    spool = Spool(tmp_path / "spool")
    spool.add([Steps(1, 1, (0.1 + 0.2, 1 / 3))], [])
    spool.add([Steps(1, 3, (0.25,))], [Finished(factories.epoch_record(1, loss=2 / 3), CHECKPOINT)])
    spool.add([Steps(2, 1, (0.125,))], [])
    return spool


def test_what_is_left_behind_is_what_was_added_bit_for_bit(full):
    first, second, third = left_behind(full.folder)
    assert first == Batch(1, (Steps(1, 1, (0.1 + 0.2, 1 / 3)),), ())
    assert second.epochs == (Finished(factories.epoch_record(1, loss=2 / 3), CHECKPOINT),)
    assert third.number == 3


def test_delivered_batches_are_gone_and_the_rest_waits_in_order(full):
    got = []

    def until_the_outage(batch):
        if batch.number == 2 and not got[1:]:
            got.append("away")
            raise ConnectionError
        got.append(batch.number)

    with pytest.raises(ConnectionError):
        full.deliver(until_the_outage)
    assert (got, full.empty) == ([1, "away"], False)
    assert [batch.number for batch in left_behind(full.folder)] == [2, 3]
    full.deliver(until_the_outage)
    assert (got, full.empty) == ([1, "away", 2, 3], True)
    assert list(left_behind(full.folder)) == []


def test_a_damaged_file_ends_what_can_be_handed_in(full):
    path = full.folder / "000002.json"
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.26"))
    assert [batch.number for batch in left_behind(full.folder)] == [1]


def test_a_full_disk_loses_nothing_that_memory_holds(tmp_path):
    (tmp_path / "spool").write_bytes(b"a file where the spool needs a folder")
    spool, got = Spool(tmp_path / "spool"), []
    spool.add([Steps(1, 1, (0.5,))], [])
    spool.deliver(got.append)
    assert got == [Batch(1, (Steps(1, 1, (0.5,)),), ())]
