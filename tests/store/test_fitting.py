"""Labels, memory, and workers that are asked to leave: who takes which run, and why nobody does."""

import copy

import pytest

from store import endings, experiments, forecast, peaks, presence, queue, waiting
from store.database import transaction
from store.endings import Ending
from store.models import Run
from store.presence import Leave, Presence
from store.queue import Known, Offer
from store.standing import standing
from tests import factories
from tests.store import ledger


@pytest.fixture(autouse=True)
def phantom(database):
    ledger.dataset()


def claim(**offer):
    with transaction() as session:
        work = queue.claim(session, "default", "w", "host", 30, offer=Offer(**offer))
        return work and work.claim.run_id


def count(labelled=False, **offer):
    with transaction() as session:
        return waiting.claimable(session, "default", 0, offer=Offer(**offer), labelled=labelled)


def worker(name="w:1", **more):
    with transaction() as session:
        return presence.here(session, Presence(name, "host", "default", 1, 1, "1", **more))


def why(run):
    with transaction() as session:
        return standing(session, session.get_one(Run, run)).waits


# ---- labels ----------------------------------------------------------------------------------------------------


def test_a_run_is_taken_by_a_worker_with_all_labels_that_it_needs():
    (picky,) = ledger.submit(needs={"gpu": "h200", "site": "a"}, reuse=False)
    (plain,) = ledger.submit(reuse=False)
    assert claim(labels={"gpu": "h200"}) == plain  # one of two labels is not enough, so the later run is taken
    assert claim(labels={"gpu": "h200", "site": "b"}) is None
    assert [count(labels=has) for has in ({}, {"gpu": "h200"}, {"gpu": "h200", "site": "a", "x": "y"})] == [0, 0, 1]
    assert claim(labels={"gpu": "h200", "site": "a", "x": "y"}) == picky


def test_labels_and_pool_change_no_hash_and_can_be_reused():
    plain = ledger.finished()
    (same,) = ledger.submit(needs={"gpu": "h200"}, pool="far")
    run, before = ledger.run(same), ledger.run(plain)
    assert (run.training_hash, run.evaluation_hash) == (before.training_hash, before.evaluation_hash)
    assert run.reused_from == plain
    assert (run.pool, run.labels) == ("far", {"gpu": "h200"})


def test_only_labelled_runs_are_looked_for_without_an_announcement():
    ledger.submit(reuse=False)
    assert count(labelled=True, labels={"gpu": "h200"}) == 0
    ledger.submit(needs={"gpu": "h200"}, reuse=False)
    assert count(labelled=True, labels={"gpu": "h200"}) == 1
    assert count(labelled=True) == 0


def test_a_submission_as_older_releases_stored_it_finds_its_key_again():
    """The body that is hashed has no fields that they did not know."""
    with transaction() as session:
        made = experiments.submit(session, 1, factories.submission(), key="k")
    assert made.experiment.submission.keys() == {"spec", "grid", "variants", "folds", "seeds"}


def test_the_reason_names_the_labels():
    (run,) = ledger.submit(needs={"gpu": "h200", "site": "a"})
    assert why(run).startswith("no worker is there for pool default")
    worker(labels={"gpu": "h200"})
    assert why(run) == (
        "no worker of pool default has label gpu=h200 and site=a; start one with "
        "`liverseg-worker start --pool default --label gpu=h200 --label site=a`"
    )
    worker("w:2", labels={"gpu": "h200", "site": "a"}, trouble="the disk is away")
    assert why(run) == "the disk is away"
    worker("w:3", labels={"gpu": "h200", "site": "a"})
    assert why(run) == "next in pool default; waits for a free worker"


def test_a_run_that_nobody_can_take_has_no_time_and_takes_none_of_others():
    ledger.finish(ledger.claimed(), best_epoch=1)
    (picky,) = ledger.submit(needs={"gpu": "h200"}, reuse=False)
    (plain,) = ledger.submit(reuse=False)
    worker()
    with transaction() as session:
        first, second = forecast.queue_of(session, "default", 30).waiting
    assert (first.run.id, first.starts_s, second.run.id, second.starts_s) == (picky, None, plain, 0)
    assert "gpu=h200" in first.waits
    assert second.waits is None


# ---- memory ----------------------------------------------------------------------------------------------------


def ended(memory_mb, whole=True):
    """A run whose trainer took so much, MiB, until it had finished, or was interrupted; all are of one cost."""
    held = ledger.claimed()
    with transaction() as session:
        queue.heartbeat(session, held, 30, None, Known(None, memory_mb))
    if whole:
        return ledger.finish(held)
    with transaction() as session:
        endings.release(session, held, Ending())
    return ledger.execute("UPDATE runs SET state = 'paused' WHERE id = :run", run=held.run_id)


def known():
    return [memory for (memory,) in ledger.rows("SELECT memory_mb FROM peaks")]


def test_a_run_is_taken_where_runs_like_it_fit():
    ended(5400)
    (like,) = ledger.submit(seeds=[7], reuse=False)
    spec = factories.tiny_spec(model={"filters": 4, "depth": 2})
    (other,) = ledger.submit(spec=spec, reuse=False)
    assert [count(memory_mb=left) for left in (5399, 5400, None)] == [1, 2, 2]
    assert claim(memory_mb=5399) == other  # of which nobody knows anything
    assert claim(memory_mb=5399) is None
    assert claim(memory_mb=5400) == like


def test_a_claim_tells_what_is_expected():
    ended(5400)
    ledger.submit(seeds=[7], reuse=False)
    assert ledger.claim().memory_mb == 5400
    assert ledger.run(1).cost == ledger.run(2).cost


def test_a_setting_that_came_later_leaves_what_is_known_as_it_is():
    """A spec stored before there was a precision stays alike to one that says the default, and to no other."""
    (now, mixed) = ledger.submit(grid={"training.precision": ["float32", "mixed_bfloat16"]}, reuse=False)
    before = copy.deepcopy(ledger.run(now).spec)
    del before["training"]["precision"]
    assert peaks.cost({"kind": "train", "spec": before}) == ledger.run(now).cost
    assert ledger.run(mixed).cost != ledger.run(now).cost


def test_what_is_known_of_memory():
    ended(1000, whole=False)
    assert known() == [1000]
    ended(800, whole=False)  # it was interrupted: it might have taken more
    assert known() == [1000]
    ended(800)  # a tenth is taken off the 1,000
    assert known() == [900]
    ended(850)  # 810 and 850
    assert known() == [850]
    ended(2000, whole=False)  # it took that much at least
    assert known() == [2000]


def test_the_reason_names_the_memory():
    ended(5400)
    (run,) = ledger.submit(seeds=[7], reuse=False)
    worker(memory_mb=3000)
    worker("w:2", memory_mb=4000)
    assert why(run) == (
        "runs like it took 5,400 MiB of memory, and the most that a worker of pool default has left is 4,000 MiB; "
        "it waits until there is more"
    )
    worker("w:2", memory_mb=6000)
    assert why(run).startswith("next in pool default")
    worker("w:2", memory_mb=None)  # it cannot tell, so it tries
    assert why(run).startswith("next in pool default")


# ---- leaving ---------------------------------------------------------------------------------------------------


def ask(name="w:1", how=Leave.FINISH):
    with transaction() as session:
        return presence.ask_to_leave(session, name, how, 30)


def test_a_worker_hears_that_it_is_to_leave():
    assert worker() is None
    assert ask().name == "w:1"
    assert worker() is Leave.FINISH
    ask(how=Leave.NOW)
    ask(how=Leave.FINISH)  # too late for that
    assert worker() is Leave.NOW


def test_only_a_worker_that_is_there_can_be_asked():
    worker()
    assert ask("w:2") is None
    ledger.execute("UPDATE workers SET seen_at = clock_timestamp() - interval '31 seconds'")
    assert ask() is None


def test_a_worker_that_is_asked_to_leave_takes_no_run_in_any_forecast():
    (run,) = ledger.submit()
    worker()
    assert why(run).startswith("next in pool")
    ask()
    assert why(run).startswith("no worker is there")


def test_the_next_process_of_the_same_name_is_not_asked():
    """In a container every first process has the same number."""
    worker(labels={"gpu": "a"})
    ask()
    with transaction() as session:
        fresh = Presence("w:1", "host", "default", 2, 1, "2", labels={"gpu": "b"})
        assert presence.here(session, fresh, begins=True) is None
        session.flush()
        ((one, alive, runs),) = presence.workers(session, 30)
    assert (one.slots, one.labels, one.version, alive, runs) == (2, {"gpu": "b"}, "2", True, 0)


def test_what_each_worker_carries():
    first, second = (ledger.claimed() for _ in range(2))
    ledger.finish(first)
    with transaction() as session:
        assert {name: [run.id for run in runs] for name, runs in presence.carried(session).items()} == {
            "w": [second.run_id]
        }
