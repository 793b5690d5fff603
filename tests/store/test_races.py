"""Two or more real connections at the same row, lined up by barriers: exactly one wins, the others learn it."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from store import endings, queue, scores, wishes
from store.database import engine, transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from store.queue import LeaseLost
from store.states import IllegalMove
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")
ROUNDS = 20


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def race(*moves):
    """Start every move at the same moment, each on its own connection; what each returned or raised."""
    barrier = threading.Barrier(len(moves))

    def one(move):
        with engine().connect():  # a warm connection in the pool for each, so that none is late
            barrier.wait(30)
        barrier.wait(30)
        try:
            with transaction() as session:
                return move(session)
        except (LeaseLost, IllegalMove) as error:
            return error

    with ThreadPoolExecutor(len(moves)) as threads:
        return list(threads.map(one, moves))


def finishing(held):
    return lambda session: scores.finish(session, held, [factories.slice_score()], {}, 1, Ending(0))


def cancelling(held):
    return lambda session: wishes.cancel(session, DEFAULT_PROJECT, held.run_id).state


def reaping(session):
    return endings.reap(session, 0, 3)


def in_order(first, second):
    """Hold the first move's transaction open until the second waits for the lock, then let both end."""
    inside, results = threading.Event(), {}

    def later():
        inside.wait(30)
        try:
            with transaction() as session:
                results["second"] = second(session)
        except (LeaseLost, IllegalMove) as error:
            results["second"] = error

    thread = threading.Thread(target=later)
    thread.start()
    with transaction() as session:
        results["first"] = first(session)
        session.flush()
        inside.set()
        wait_until_somebody_waits()
    thread.join(30)
    return results["first"], results["second"]


def wait_until_somebody_waits():
    for _ in range(2000):
        if ledger.rows("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(0,)]:
            return
        threading.Event().wait(0.005)
    raise AssertionError("the second move never waited for the first")


def test_finish_before_cancel():
    held = ledger.claimed()
    finished, cancelled = in_order(finishing(held), cancelling(held))
    assert finished == "succeeded"
    assert isinstance(cancelled, IllegalMove)
    assert ledger.run(held.run_id).state == "succeeded"
    assert ledger.rows("SELECT count(*) FROM slice_scores") == [(1,)]


def test_cancel_before_finish():
    held = ledger.claimed()
    cancelled, finished = in_order(cancelling(held), finishing(held))
    assert (cancelled, finished) == ("stopping", "cancelled")
    assert ledger.run(held.run_id).state == "cancelled"
    assert ledger.rows("SELECT count(*) FROM slice_scores") == [(0,)]


def test_cancel_against_finish_has_one_winner_each_time():
    for _ in range(ROUNDS):
        held = ledger.claimed()
        cancelled, finished = race(cancelling(held), finishing(held))
        stored = ledger.rows("SELECT count(*) FROM slice_scores WHERE run_id = :run", run=held.run_id)
        if finished == "succeeded":
            assert isinstance(cancelled, IllegalMove)
            assert (ledger.run(held.run_id).state, stored) == ("succeeded", [(1,)])
        else:
            assert (cancelled, finished) == ("stopping", "cancelled")
            assert (ledger.run(held.run_id).state, stored) == ("cancelled", [(0,)])


def test_eight_claim_twenty_runs_and_each_is_claimed_once():
    runs = ledger.submit(seeds=20)
    barrier = threading.Barrier(8)

    def work(name):
        barrier.wait(30)
        got = []
        while found := ledger.claim(worker=name):
            got.append(found.claim.run_id)
        return got

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(work, [f"w{number}" for number in range(8)]))
    assert Counter(run for one in got for run in one) == dict.fromkeys(runs, 1)
    assert ledger.rows("SELECT DISTINCT fence, state FROM runs") == [(1, "running")]
    assert ledger.rows("SELECT count(*), count(DISTINCT run_id) FROM attempts") == [(20, 20)]


def test_one_run_and_eight_claims():
    for _ in range(ROUNDS // 2):
        (run,) = ledger.submit(reuse=False)
        claims = race(*[lambda session: queue.claim(session, "default", "w", "h", 30)] * 8)
        assert [found.claim.run_id for found in claims if found] == [run]


def test_reap_against_finish_has_one_winner_each_time():
    for _ in range(ROUNDS):
        held = ledger.claimed()
        ledger.execute("UPDATE runs SET lease_until = clock_timestamp() WHERE id = :a", a=held.run_id)
        reaped, finished = race(reaping, finishing(held))
        state = ledger.run(held.run_id).state
        assert (finished, state) == ("succeeded", "succeeded")  # a reaped run that nobody claimed is taken up again
        assert reaped in ([], [held.run_id])
        assert ledger.run(held.run_id).crashes == 0


def test_two_reapers_count_one_crash():
    runs = [ledger.claimed().run_id for _ in range(10)]
    ledger.execute("UPDATE runs SET lease_until = clock_timestamp()")
    taken = race(reaping, reaping)
    assert sorted(taken[0] + taken[1]) == runs
    assert ledger.rows("SELECT DISTINCT crashes, state FROM runs") == [(1, "queued")]


def test_heartbeat_against_reap():
    for _ in range(ROUNDS):
        held = ledger.claimed()
        ledger.execute("UPDATE runs SET lease_until = clock_timestamp() WHERE id = :a", a=held.run_id)
        beaten, reaped = race(lambda session, held=held: queue.heartbeat(session, held, 30), reaping)
        assert beaten == "running"  # the lease was renewed in time, or the run taken up again
        assert reaped in ([], [held.run_id])
        assert (ledger.run(held.run_id).state, ledger.run(held.run_id).crashes) == ("running", 0)
        ledger.execute("UPDATE runs SET state = 'failed' WHERE id = :a", a=held.run_id)


def test_reattach_against_claim_has_one_owner_each_time():
    for _ in range(ROUNDS):
        held = ledger.claimed()
        ledger.execute("UPDATE runs SET lease_until = clock_timestamp() WHERE id = :a", a=held.run_id)
        with transaction() as session:
            assert endings.reap(session, 0, 3) == [held.run_id]
        beaten, claimed = race(
            lambda session, held=held: queue.heartbeat(session, held, 30),
            lambda session: queue.claim(session, "default", "another", "h", 30),
        )
        run = ledger.run(held.run_id)
        running = ledger.rows("SELECT number FROM attempts WHERE run_id = :a AND outcome = 'running'", a=held.run_id)
        if claimed is None:
            assert (beaten, run.fence, run.crashes, running) == ("running", 1, 0, [(1,)])
        else:
            assert isinstance(beaten, LeaseLost)
            assert (run.fence, run.crashes, running) == (2, 1, [(2,)])
        ledger.execute("UPDATE runs SET state = 'failed' WHERE id = :a", a=held.run_id)


def test_pause_against_finish_keeps_the_result():
    for _ in range(ROUNDS):
        held = ledger.claimed()
        paused, finished = race(
            lambda session, held=held: wishes.pause(session, DEFAULT_PROJECT, held.run_id).state, finishing(held)
        )
        assert (finished, ledger.run(held.run_id).state) == ("succeeded", "succeeded")
        assert paused == "stopping" or isinstance(paused, IllegalMove)


def test_drain_against_reap_burns_one_attempt_at_most():
    for _ in range(ROUNDS):
        held = ledger.claimed()
        ledger.execute("UPDATE runs SET lease_until = clock_timestamp() WHERE id = :a", a=held.run_id)
        race(lambda session, held=held: endings.release(session, held, Ending()), reaping)
        run = ledger.run(held.run_id)
        assert (run.state, run.crashes) == ("queued", 0)  # given back, before or after it was taken back
        assert ledger.rows("SELECT outcome FROM attempts WHERE run_id = :a", a=held.run_id) == [("preempted",)]
        ledger.execute("UPDATE runs SET state = 'failed' WHERE id = :a", a=held.run_id)


def test_dropping_the_fencing_check_would_be_seen(monkeypatch):
    """The check is what protects: without it, a worker that lost its run does overwrite its successor's."""
    old = ledger.claimed()
    with transaction() as session:
        endings.crash(session, old, Ending(-9), 3)
    ledger.claim()
    monkeypatch.setattr(
        scores, "owned", lambda session, claim: session.get(ledger.Run, claim.run_id, with_for_update=True)
    )
    assert ledger.finish(old) == "succeeded"
