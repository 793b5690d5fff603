"""Random sequences of moves against a plain model: the events folded give the state, and the invariants hold."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import queue, scores
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.queue import Claim, Ending, LeaseLost
from store.states import FINAL, IllegalMove, State, target
from tests import factories
from tests.store import ledger

MAX_CRASHES = 2
STEPS = ("claim", "heartbeat", "epoch", "finish", "fail", "release", "crash", "lose", "cancel", "requeue", "stale")


class Model:
    """What should happen to one run, in a few plain rules."""

    def __init__(self):
        self.state, self.fence, self.crashes, self.epochs = State.QUEUED, 0, 0, 0

    def step(self, name):
        """Whether the step is allowed; then it has been done."""
        if name == "claim":
            return self._claim()
        if name == "cancel":
            return self._cancel()
        if name == "requeue":
            return self._requeue()
        return name != "stale" and self._write(name)

    def _claim(self):
        if self.state != "queued":
            return False
        self.state, self.fence = State.RUNNING, self.fence + 1
        return True

    def _cancel(self):
        ends = {"queued": State.CANCELLED, "running": State.STOPPING, "stopping": State.STOPPING}
        if self.state in ends:
            self.state = ends[self.state]
            return True
        return self.state == "cancelled"

    def _requeue(self):
        if self.state != "dead":
            return False
        self.state, self.crashes = State.QUEUED, 0
        return True

    def _write(self, name):
        if self.state not in ("running", "stopping"):
            return False
        if name == "epoch":
            self.epochs += 1
        elif name != "heartbeat":
            self.state = State.CANCELLED if self.state == "stopping" else self._end(name)
        return True

    def _end(self, name):
        if name in ("crash", "lose"):
            self.crashes += 1
            return State.DEAD if self.crashes >= MAX_CRASHES else State.QUEUED
        return {"finish": State.SUCCEEDED, "fail": State.FAILED, "release": State.QUEUED}[name]


def do(name, run_id, fence, epoch):
    """The real step; whether it was allowed."""
    held = Claim(run_id, fence)
    real = {
        "claim": lambda s: queue.claim(s, "default", "w", "h", 30) is not None,
        "heartbeat": lambda s: queue.heartbeat(s, held, 30) is not None,
        "epoch": lambda s: queue.record_epoch(s, held, factories.epoch_record(epoch), {"epoch": epoch}) is None,
        "finish": lambda s: scores.finish(s, held, [factories.slice_score()], {}, 1, Ending(0)) is not None,
        "fail": lambda s: queue.fail(s, held, "loss-not-finite", Ending(1)) is None,
        "release": lambda s: queue.release(s, held, Ending(0)) is None,
        "crash": lambda s: queue.crash(s, held, Ending(-9), MAX_CRASHES) is None,
        "lose": lambda s: lose(s, run_id),
        "cancel": lambda s: queue.cancel(s, DEFAULT_PROJECT, run_id) is not None,
        "requeue": lambda s: queue.requeue(s, DEFAULT_PROJECT, run_id) is not None,
        "stale": lambda s: queue.heartbeat(s, Claim(run_id, fence - 1), 30) is not None,
    }
    try:
        with transaction() as session:
            return real[name](session)
    except (IllegalMove, LeaseLost):
        return False


def lose(session, run_id):
    run = session.get_one(ledger.Run, run_id)
    if run.lease_until is not None:
        run.lease_until = queue.seconds_from_now(-1)
        session.flush()
    return queue.reap(session, 0, MAX_CRASHES) == [run_id]


def fold(run_id):
    """The state that the events alone give, checking that each is an arrow."""
    state = None
    for move, said in ledger.rows("SELECT move, state FROM run_events WHERE run_id = :run ORDER BY id", run=run_id):
        state = target(move, state)
        assert state is not None
        assert state == said
    return state


@pytest.fixture
def phantom(database):
    return ledger.dataset()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(STEPS), max_size=14))
def test_folding_the_events_gives_the_state(phantom, steps):
    (run_id,) = ledger.submit(reuse=False)
    model = Model()
    try:
        for name in steps:
            fence, epoch = model.fence, model.epochs + 1
            assert do(name, run_id, fence, epoch) == model.step(name), name
        check(run_id, model)
    finally:
        ledger.execute("UPDATE runs SET state = 'failed' WHERE state IN ('queued', 'running', 'stopping')")


def check(run_id, model):
    run = ledger.run(run_id)
    assert (run.state, run.fence, run.crashes) == (model.state, model.fence, model.crashes)
    assert fold(run_id) == run.state
    owned = run.state in ("running", "stopping")
    assert (run.lease_until is not None) == owned
    assert (run.finished_at is not None) == (run.state in FINAL)
    outcomes = [one for (one,) in ledger.rows("SELECT outcome FROM attempts WHERE run_id = :a", a=run_id)]
    assert len(outcomes) == run.fence
    assert outcomes.count("running") == owned
    assert outcomes.count("succeeded") == (run.state == "succeeded")
    stored = ledger.rows("SELECT count(*) FROM slice_scores WHERE run_id = :a", a=run_id)
    assert stored == [(int(run.state == "succeeded"),)]
    epochs = [epoch for (epoch,) in ledger.rows("SELECT epoch FROM epochs WHERE run_id = :a ORDER BY 1", a=run_id)]
    assert epochs == list(range(1, model.epochs + 1))
