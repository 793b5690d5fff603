"""Which runs are marked as resumed on different hardware."""

import pytest

from store import comparison, endings, queue, scorings
from store.database import transaction
from store.endings import Ending
from store.hardware import resumed_elsewhere
from store.models import DEFAULT_PROJECT
from store.queue import Known
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")
MOVED = Known({"processor": "B", "threads": "2", "changed_from": {"processor": "A"}})


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def write(change, *arguments):
    with transaction() as session:
        return change(session, *arguments)


def epoch(held, number):
    write(factories.store_epoch, held, factories.epoch_record(number), {**ledger.CHECKPOINT, "epoch": number})


def resumed(known=MOVED, each=()):
    """A run whose first attempt left one epoch and was preempted; the claim of the second, which is ``known``."""
    held = ledger.claimed()
    epoch(held, 1)
    write(endings.release, held, Ending())
    held = ledger.claim().claim
    write(queue.heartbeat, held, 30, None, known)
    for number in each:
        epoch(held, number)
    return held


def marked(*runs):
    return write(resumed_elsewhere, runs)


def test_a_run_that_goes_on_elsewhere_is_marked_and_one_that_goes_on_at_home_is_not():
    moved, stayed = resumed(), resumed(Known({"processor": "A"}))
    told = "Resumed on different hardware: attempt 2 after epoch 1 (processor A, then B)."
    assert marked(moved.run_id, stayed.run_id) == {moved.run_id: told}
    ledger.finish(moved)
    ledger.finish(stayed)
    assert marked(moved.run_id, stayed.run_id) == {moved.run_id: told}


def test_an_attempt_elsewhere_that_left_nothing_does_not_count():
    held = resumed()
    write(endings.crash, held, Ending(-9), 3)
    assert marked(held.run_id) == {}
    back = ledger.claim().claim
    write(queue.heartbeat, back, 30, None, Known({"processor": "A"}))
    ledger.finish(back)
    assert marked(held.run_id) == {}


def test_one_that_left_an_epoch_counts_for_good():
    held = resumed(each=[2])
    write(endings.crash, held, Ending(-9), 3)
    back = {"processor": "A", "changed_from": {"processor": "B"}}
    held = ledger.claim().claim
    write(queue.heartbeat, held, 30, None, Known(back))
    ledger.finish(held)
    first, second = "attempt 2 after epoch 1 (processor A, then B)", "attempt 3 after epoch 2 (processor B, then A)"
    assert marked(held.run_id) == {held.run_id: f"Resumed on different hardware: {first}, {second}."}


def test_whoever_shows_or_scores_its_result_is_marked_too_and_comparisons_say_so():
    moved = resumed()
    ledger.finish(moved)
    other = ledger.finished(spec=factories.tiny_spec(training={"batch_size": 4, "epochs": 3}))
    (again,) = ledger.submit()
    rescored = write(scorings.submit_rescores, DEFAULT_PROJECT, [moved.run_id], {"threshold": 0.4}).runs[0].id
    whole = f"Resumed on different hardware: run {moved.run_id}, attempt 2 after epoch 1 (processor A, then B)."
    assert marked(again, rescored, other) == {again: whole, rescored: whole}
    with transaction() as session:
        told = comparison.compare(session, DEFAULT_PROJECT, [moved.run_id, other]).notes
        untold = comparison.compare(session, DEFAULT_PROJECT, [other]).notes
    assert [note for note in told if "hardware" in note] == [
        f"Run {moved.run_id}: resumed on different hardware, so these scores may differ slightly from those of a "
        "training that nothing interrupted."
    ]
    assert not any("hardware" in note for note in untold)
