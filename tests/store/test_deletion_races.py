"""A deletion against a request for what it deletes: one of them wins, and no pointer leads nowhere."""

import json

import pytest

from api.problems import Problem
from api.routes import comparisons
from liverseg_core.errors import SpecError
from store import comparison, deletion, experiments, scorings
from store.database import transaction
from store.deletion import Selection
from store.models import DEFAULT_PROJECT, Dataset, Run
from tests import factories
from tests.store import ledger
from tests.store.test_deletion import finished, holds
from tests.store.test_races import ROUNDS, in_order, race

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def deleting(what, *runs):
    def act(session):
        planned = deletion.plan(session, DEFAULT_PROJECT, what, Selection(runs), hold=True)
        deletion.carry_out(session, DEFAULT_PROJECT, planned, "anna")
        return [run.id for run in planned.runs]

    return act


def told(act):
    """Refusals are answers here."""

    def caught(session):
        try:
            return act(session)
        except SpecError as error:
            return error

    return caught


def submitting(**sections):
    def act(session):
        body = factories.submission(factories.tiny_spec(**sections))
        made = experiments.submit(session, DEFAULT_PROJECT, body)
        return made.runs[0].id

    return act


def rescoring(run):
    def act(session):
        made = scorings.submit_rescores(session, DEFAULT_PROJECT, [run], {"min_lesion": 3})
        return made.runs[0].id

    return told(act)


def clear():
    """End what waits and delete everything, so that the next round finds no earlier result."""
    ledger.execute("UPDATE runs SET state = 'failed' WHERE state <> 'succeeded'")
    everything = [run for (run,) in ledger.rows("SELECT id FROM runs")]
    with transaction() as session:
        deleting("run", *everything)(session)
    assert ledger.rows("SELECT id FROM runs") == []


def check_reuse(run, went, new):
    """Either the new run shows the old one, which stayed, or it trains by itself."""
    assert (went, ledger.run(new).reused_from) in [([run], None), ([], run)]
    holds()


def test_deletion_before_a_submission_that_would_reuse():
    run = finished()
    went, new = in_order(deleting("run", run), submitting())
    assert (went, ledger.run(new).state) == ([run], "queued")
    check_reuse(run, went, new)


def test_a_submission_that_reuses_before_deletion():
    run = finished()
    new, went = in_order(submitting(), deleting("run", run))
    assert went == []
    check_reuse(run, went, new)


def test_deletion_against_reuse_has_one_winner_each_time():
    for _ in range(ROUNDS):
        run = finished()
        went, new = race(deleting("run", run), submitting())
        check_reuse(run, went, new)
        clear()


def test_deletion_before_a_rescore():
    run = finished()
    went, refused = in_order(deleting("run", run), rescoring(run))
    assert went == [run]
    assert isinstance(refused, SpecError)
    assert f"Run {run} was deleted on" in str(refused)
    assert ledger.rows("SELECT count(*) FROM runs") == [(0,)]


def test_a_rescore_before_deletion():
    run = finished()
    new, went = in_order(rescoring(run), deleting("run", run))
    assert (went, ledger.run(new).scored_from) == ([], run)
    holds()


def test_deletion_of_maps_against_a_rescore_has_one_winner_each_time():
    for _ in range(ROUNDS):
        run = finished()
        went, new = race(deleting("files", run), rescoring(run))
        # Either its maps stayed for it, or it goes without them.
        assert (went, ledger.run(new).kind) in [([run], "evaluate"), ([], "rescore")]
        clear()


def test_deletion_against_a_rescore_has_one_winner_each_time():
    for _ in range(ROUNDS):
        run = finished()
        went, new = race(deleting("run", run), rescoring(run))
        assert (went == [run]) == isinstance(new, SpecError)
        assert ledger.rows("SELECT count(*) FROM runs") == [(0 if went else 1 + 1,)]
        holds()
        clear()


def test_two_deletions_of_the_last_two_runs_leave_no_empty_experiment():
    for _ in range(ROUNDS):
        runs = ledger.submit(seeds=2, reuse=False)
        ledger.execute("UPDATE runs SET state = 'cancelled' WHERE id = ANY(:runs)", runs=runs)
        assert race(*(deleting("run", run) for run in runs)) == [[run] for run in runs]
        assert ledger.rows("SELECT count(*) FROM experiments") == [(0,)]


def test_deletion_of_a_data_set_before_a_submission_on_it():
    def removing(session):
        planned = deletion.plan_dataset(session, session.get_one(Dataset, 1), hold=True)
        assert planned.stays is None
        deletion.carry_out_dataset(session, planned, "anna")

    _, refused = in_order(removing, told(submitting()))
    assert isinstance(refused, SpecError)
    assert refused.path == "dataset.id"
    with transaction() as session:
        assert session.get(Run, 1) is None


def test_a_table_shows_one_moment_whatever_is_deleted_while_it_is_read(monkeypatch):
    run = finished()
    read = comparison._epochs

    def deleted_before(session, runs):
        with transaction() as other:
            deleting("run", run)(other)
        return read(session, runs)

    monkeypatch.setattr(comparison, "_epochs", deleted_before)
    table = json.loads(bytes(comparisons.read(DEFAULT_PROJECT, [str(run)]).body))
    assert [(row["run"], row["best_epoch"]) for row in table["rows"]] == [(run, 1)]
    with pytest.raises(Problem, match="was deleted on"):
        comparisons.read(DEFAULT_PROJECT, [str(run)])
