"""Random lives of several runs against a plain model: events fold to states, invariants hold, stale writers lose."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from store import batches, endings, queue, scores, wishes
from store.batches import Batch, Finished, Steps
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from store.queue import Claim, LeaseLost
from store.states import FINAL, IllegalMove, State, target
from tests import factories
from tests.store import ledger

MAX_CRASHES = 3
PLACE = st.integers(0, 4)
ENDS = {
    "succeeded": lambda s, c: scores.finish(s, c, [factories.slice_score()], {}, 1, Ending(0)),
    "failed": lambda s, c: endings.fail(s, c, "loss-not-finite", Ending(1)),
    "released": lambda s, c: endings.release(s, c, Ending(0)),
    "held": lambda s, c: endings.hold(s, c, Ending(5, reason="disk-full")),
}


class Model:
    """What should be true of one run, in a few plain rules; ``lost``: whether its last attempt was reaped."""

    def __init__(self):
        self.state, self.wish, self.lost = "queued", None, False
        self.fence, self.crashes, self.epochs, self.died = 0, 0, 0, None

    @property
    def owned(self):
        return self.state in ("running", "stopping")

    def holds(self, fence):
        """Whether a writer with this number still may write; one that was reaped too early takes its run up again."""
        if fence != self.fence or not (self.owned or (self.state == "queued" and self.lost)):
            return False
        if not self.owned:
            self.state, self.crashes, self.died = "running", self.crashes - 1, self.before
        self.lost = False
        return True

    def leave(self, state):
        """The attempt is over: ``state`` unless somebody asked for another."""
        if self.state == "stopping":
            state = "paused" if self.wish == "pause" else "cancelled"
        self.state, self.wish = state, None

    def crash(self, step):
        if self.state == "stopping":
            return self.leave("")
        self.before, again = self.died, self.crashes > 0 and step is not None and step == self.died
        self.crashes, self.died = self.crashes + 1, step
        return self.leave("dead" if again or self.crashes >= MAX_CRASHES else "queued")


class Lives(RuleBasedStateMachine):
    """Every claim is kept when it is stale: its writer never knows."""

    def __init__(self):
        super().__init__()
        self.models: dict[int, Model] = {}
        self.claims: list[Claim] = []
        self.told: set[Claim] = set()
        self.batches = 0

    def having(self, *states):
        return sorted(run_id for run_id, model in self.models.items() if model.state in states)

    def pick(self, place):
        """A claim, those that own their run first."""
        live = [c for c in self.claims if self.models[c.run_id].owned and self.models[c.run_id].fence == c.fence]
        ordered = [*live, *reversed([c for c in self.claims if c not in live])]
        return ordered[min(place, len(ordered) - 1)]

    @initialize()
    def begin(self):
        self.submit()
        self.claim()

    @precondition(lambda self: len(self.having("queued")) < 2)
    @rule()
    def submit(self):
        for run_id in ledger.submit(seeds=4, reuse=False):
            self.models[run_id] = Model()

    @rule()
    def claim(self):
        waiting = self.having("queued")
        work = ledger.claim()
        if work is None:
            assert not waiting
            return
        run_id, model = work.claim.run_id, self.models[work.claim.run_id]
        assert run_id == min(waiting)
        model.state, model.fence, model.lost = "running", model.fence + 1, False
        assert work.claim.fence == model.fence
        self.claims.append(work.claim)

    def write(self, claim, work):
        """A worker's write: done where the model says so, refused without a trace where not."""
        model = self.models[claim.run_id]
        before = None if model.holds(claim.fence) else ledger.everything()
        try:
            with transaction() as session:
                done = work(session)
        except LeaseLost:
            assert before is not None, "a writer that owns its run was refused"
            assert ledger.everything() == before
            return None
        assert before is None, "a stale writer was let in"
        return model, done

    @rule(place=PLACE)
    def heartbeat(self, place):
        claim = self.pick(place)
        found = self.write(claim, lambda s: queue.heartbeat(s, claim, 30, {"phase": "training"}))
        assert found is None or found[1] == found[0].state

    @rule(place=PLACE, twice=st.booleans())
    def epoch(self, place, twice):
        claim = self.pick(place)
        model = self.models[claim.run_id]
        number = model.epochs + 1
        self.batches += 1
        batch = Batch(
            self.batches,
            [Steps(number, 1, (0.5, 0.25))],
            [Finished(factories.epoch_record(number), ledger.CHECKPOINT | {"epoch": number})],
        )
        if stored := self.write(claim, lambda s: batches.record(s, claim, batch)):
            self.told.add(claim)
        if stored and twice:  # the reply was lost
            assert self.write(claim, lambda s: batches.record(s, claim, batch))[1] is False
        if model.owned and model.fence == claim.fence:
            model.epochs = number

    @rule(place=PLACE)
    def fall_back(self, place):
        """A worker looks for an intact checkpoint before its trainer starts, so before it tells of any epoch."""
        claim = self.pick(place)
        if claim in self.told:
            return
        newest = {"epoch": self.models[claim.run_id].epochs}
        found = self.write(claim, lambda s: batches.fall_back(s, claim, newest))
        if found:
            model, kept = found
            model.epochs = kept["epoch"] if kept else 0

    @rule(place=PLACE, how=st.sampled_from(sorted(ENDS)))
    def end(self, place, how):
        claim = self.pick(place)
        if found := self.write(claim, lambda session: ENDS[how](session, claim)):
            model, _ = found
            if model.wish == "pause" and how in ("succeeded", "failed"):
                model.state, model.wish = "running", None  # there is nothing left to pause
            model.leave({"released": "queued", "held": "paused"}.get(how, how))

    @rule(place=PLACE, step=st.sampled_from([None, 1, 2]))
    def crash(self, place, step):
        claim = self.pick(place)
        place = {"phase": "training", "epoch": 1, "step": step} if step else {"phase": "loading"}
        if found := self.write(claim, lambda s: endings.crash(s, claim, Ending(-9, died_at=place), MAX_CRASHES)):
            found[0].crash(step)

    @precondition(lambda self: self.having("running", "stopping"))
    @rule(data=st.data())
    def lose(self, data):
        """The lease of an owned run runs out and the reaper comes by; the worker may yet come back."""
        run_id = data.draw(st.sampled_from(self.having("running", "stopping")))
        model = self.models[run_id]
        ledger.execute(
            "UPDATE runs SET lease_until = clock_timestamp() - interval '1 s', progress = NULL WHERE id = :a",
            a=run_id,
        )
        with transaction() as session:
            assert endings.reap(session, 0, MAX_CRASHES) == [run_id]
        model.lost = model.state == "running"
        model.crash(None)

    def ask(self, move, run_id):
        with transaction() as session:
            try:
                return move(session, DEFAULT_PROJECT, run_id)
            except IllegalMove:
                return None

    @precondition(lambda self: self.models)
    @rule(data=st.data(), wish=st.sampled_from(["cancel", "pause", "resume", "requeue"]))
    def wish(self, data, wish):
        run_id = data.draw(st.sampled_from(sorted(self.models)))
        model = self.models[run_id]
        allowed = {
            "cancel": ("queued", "running", "stopping", "paused", "cancelled"),
            "pause": ("queued", "running", "paused") + (("stopping",) if model.wish == "pause" else ()),
            "resume": ("paused",),
            "requeue": ("dead",),
        }[wish]
        found = self.ask(getattr(wishes, wish), run_id)
        assert (found is not None) == (model.state in allowed), (wish, model.state)
        if found is None:
            return
        if wish in ("resume", "requeue"):
            model.crashes = 0 if wish == "requeue" else model.crashes
            model.state, model.lost = "queued", False
        elif model.owned:
            model.state, model.wish = "stopping", wish
        else:
            model.state = {"cancel": "cancelled", "pause": "paused"}[wish]

    @invariant()
    def everything_is_as_the_model_says(self):
        ids = sorted(self.models)
        runs = ledger.rows(
            "SELECT id, state, fence, crashes, wish, lease_until IS NOT NULL, finished_at IS NOT NULL FROM runs "
            "WHERE id = ANY(:ids) ORDER BY id",
            ids=ids,
        )
        models = [(run_id, self.models[run_id]) for run_id in ids]
        assert runs == [
            (run_id, m.state, m.fence, m.crashes, m.wish, m.owned, State(m.state) in FINAL) for run_id, m in models
        ]
        outcomes = self.by_run("SELECT run_id, outcome FROM attempts", ids)
        stored = self.by_run("SELECT run_id, slice FROM slice_scores", ids)
        tables = ("epochs", "step_losses")
        live = [self.by_run(f"SELECT run_id, epoch FROM {t} WHERE archived_at IS NULL", ids) for t in tables]
        for run_id, model in models:
            assert len(outcomes[run_id]) == model.fence
            assert outcomes[run_id].count("running") == model.owned
            assert outcomes[run_id].count("succeeded") == (model.state == "succeeded")
            assert len(stored[run_id]) == (model.state == "succeeded")
            assert [sorted(one[run_id]) for one in live] == [list(range(1, model.epochs + 1))] * 2

    def by_run(self, query, ids):
        found = {run_id: [] for run_id in ids}
        where = " AND " if "WHERE" in query else " WHERE "
        for run_id, value in ledger.rows(f"{query}{where}run_id = ANY(:ids)", ids=ids):
            found[run_id].append(value)
        return found

    def teardown(self):
        """The events of each run, folded, give its state; then all is out of the way of the next life."""
        for run_id, model in self.models.items():
            state = None
            query = "SELECT move, state FROM run_events WHERE run_id = :a ORDER BY id"
            for name, said in ledger.rows(query, a=run_id):
                state = target(name, state)
                assert state == said
            assert state == model.state
        ledger.execute("UPDATE runs SET state = 'failed' WHERE state NOT IN ('succeeded', 'cancelled', 'failed')")


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def test_random_lives(phantom):
    Lives.TestCase.settings = settings(
        max_examples=20,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    Lives.TestCase("runTest").runTest()
