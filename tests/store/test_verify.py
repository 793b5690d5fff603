"""Every invariant holds over real lives, and each is seen when it is broken by hand."""

import pytest

from store import batches, endings, verify, wishes
from store.batches import Batch, Steps
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    return ledger.dataset(train=8, val=1, test=0)


def write(change, *arguments):
    with transaction() as session:
        return change(session, *arguments)


@pytest.fixture
def lives(tmp_path):
    """A run in every state, by real moves: the ids by state."""
    finished = ledger.claimed()
    write(factories.store_epoch, finished, factories.epoch_record(1), ledger.CHECKPOINT)
    write(batches.record, finished, Batch(9, [Steps(1, 1, (0.5, 0.25))]))
    assert ledger.finish(finished, [factories.slice_score("val", 1, 0)], files=ledger.stored(tmp_path)) == "succeeded"
    crashed = ledger.claimed(seeds=[1])
    write(endings.crash, crashed, Ending(-9), 1)
    stopping = ledger.claimed(seeds=[2])
    write(wishes.cancel, DEFAULT_PROJECT, stopping.run_id)
    paused = ledger.claimed(seeds=[3])
    write(endings.hold, paused, Ending(reason="disk-full"))
    running = ledger.claimed(seeds=[4])
    (queued,) = ledger.submit(seeds=[5])
    return {
        "succeeded": finished.run_id,
        "dead": crashed.run_id,
        "stopping": stopping.run_id,
        "paused": paused.run_id,
        "running": running.run_id,
        "queued": queued,
    }


def broken():
    with transaction() as session:
        return [str(one) for one in verify.verify(session) if not one.holds]


def test_real_lives_break_nothing(lives):
    assert broken() == []
    with transaction() as session:
        assert len(verify.verify(session)) == len(verify.QUERIES) + len(verify.CHECKS) + 1


BREAKS = {
    "at most one attempt of a run is live": (
        "INSERT INTO attempts (run_id, number, worker, host, outcome) VALUES (:running, 2, 'w', 'h', 'running')"
    ),
    "a run is owned if and only if": "UPDATE runs SET lease_until = NULL WHERE id = :running",
    "fencing numbers only rise": "UPDATE runs SET fence = 7 WHERE id = :dead",
    "every accepted submission has its runs": (
        "INSERT INTO experiments (project_id, name, submission, request_hash) VALUES (1, '', '{}', '')"
    ),
    "no record belongs to an attempt that is not there": (
        "UPDATE receipts SET attempt = 9 WHERE run_id = :succeeded AND batch = 9"
    ),
    "no record was stored after its attempt had ended": (
        "UPDATE epochs SET at = at + interval '1 hour' WHERE run_id = :succeeded"
    ),
    "epochs are numbered from 1 without a gap": "UPDATE epochs SET epoch = 3 WHERE run_id = :succeeded",
    "the checkpoint is that of the last epoch": "UPDATE runs SET checkpoint = NULL WHERE id = :succeeded",
    "summaries say what the slices say": (
        """UPDATE summaries SET scores = jsonb_set(scores, '{dice,0}', '0.123')
        WHERE run_id = :succeeded AND profile = 'overview'"""
    ),
    "no step is recorded twice": (
        "INSERT INTO step_losses (run_id, attempt, epoch, first, losses) VALUES (:succeeded, 1, 1, 2, '{0.1}')"
    ),
    "succeeded means exactly one successful attempt": (
        "UPDATE attempts SET outcome = 'crashed' WHERE run_id = :succeeded"
    ),
    "a succeeded run has files": "DELETE FROM artifacts WHERE run_id = :succeeded",
    "a requeue says who asked for it": (
        "INSERT INTO run_events (run_id, move, state) VALUES (:dead, 'requeue', 'queued')"
    ),
    "only succeeded runs have scores": ("UPDATE slice_scores SET run_id = :paused WHERE run_id = :succeeded"),
    "a queued run is announced": (
        "WITH gone AS (DELETE FROM outbox), free AS (UPDATE runs SET pool = 'other' WHERE id <> :queued) "
        "UPDATE runs SET announced_at = announced_at - interval '1 hour' WHERE id = :queued"
    ),
    "what was asked to stop has stopped": (
        "UPDATE run_events SET at = at - interval '1 hour' WHERE run_id = :stopping"
    ),
    "crashes stay below the limit": "UPDATE runs SET crashes = 99 WHERE id = :queued",
    "of one project": "UPDATE runs SET project_id = :other WHERE id = :queued",
    "reused runs point to succeeded ones": "UPDATE runs SET reused_from = :dead WHERE id = :queued",
    "the events of a run, folded": "UPDATE runs SET state = 'failed' WHERE id = :queued",
    "a succeeded run has a score for every evaluated slice": (
        "UPDATE slice_scores SET slice = 5 WHERE run_id = :succeeded"
    ),
    "every artifact of a succeeded run": (
        "INSERT INTO artifacts (run_id, attempt, kind, sha256, bytes) "
        "VALUES (:succeeded, 1, 'log', repeat('0', 64), 1)"
    ),
}


@pytest.mark.parametrize("told", BREAKS)
def test_a_broken_invariant_is_named_with_its_run(lives, told):
    values = {name: value for name, value in lives.items() if f":{name}" in BREAKS[told]}
    if ":other" in BREAKS[told]:
        values["other"] = ledger.second_project()
    ledger.execute(BREAKS[told], **values)
    assert any(told in line and any(c.isdigit() for c in line) for line in broken())


def test_those_that_need_a_while_are_among_them():
    assert set(verify.TIMED) < set(verify.QUERIES)


def test_every_invariant_is_broken_once():
    every = [*verify.QUERIES, *verify.CHECKS, "every artifact of a succeeded run is there and has its hash"]
    assert all(sum(told in name for told in BREAKS) == 1 for name in every)
