"""When waiting runs begin and end: worked out by hand, and learnt from what finished runs took."""

import pytest

from store import forecast, presence
from store.database import transaction
from store.forecast import timetable
from store.presence import Presence
from tests import factories
from tests.store import ledger


@pytest.mark.parametrize(
    ("slots", "busy", "waiting", "times"),
    [
        # One slot: each begins when the one before it ends.
        (1, [], [60, 30, 10], [(0, 60), (60, 90), (90, 100)]),
        # Two slots, one of them free in 20 s: the second begins there, the third where the second ends (20 + 30).
        (2, [20], [60, 30, 10], [(0, 60), (20, 50), (50, 60)]),
        # More runs go on than there are slots now (a worker is draining): each frees the slot it has.
        (1, [5, 7], [10], [(5, 15)]),
        # Nobody knows when the first of two ends: it begins, keeps its slot, and the others share the other slot.
        (2, [], [None, 30, 10], [(0, None), (0, 30), (30, 40)]),
        # With one slot nothing behind an unknown run can be told.
        (1, [], [None, 30], [(0, None), (None, None)]),
        (1, [None], [30], [(None, None)]),
        (0, [], [30], [(None, None)]),
        (3, [], [], []),
    ],
)
def test_timetable(slots, busy, waiting, times):
    assert timetable(slots, busy, waiting) == times


@pytest.fixture
def phantom(database):
    ledger.dataset()


def spec(**sections):
    """A tiny spec, changed in single settings."""
    whole = factories.tiny_spec()
    return {**whole, **{name: {**whole.get(name, {}), **some} for name, some in sections.items()}}


def trained(epochs, seconds, took, memory, **fields):
    """A finished run with so many epochs of so many seconds, whose attempt took so long and so much memory."""
    held = ledger.claimed(**fields)
    with transaction() as session:
        for epoch in range(1, epochs + 1):
            factories.store_epoch(session, held, factories.epoch_record(epoch), {"epoch": epoch})
    ledger.finish(held, best_epoch=epochs)
    ledger.execute("UPDATE epochs SET seconds = :s WHERE run_id = :run", s=seconds, run=held.run_id)
    ledger.execute(
        "UPDATE attempts SET ended_at = started_at + make_interval(secs => :took), peak_memory_mb = :memory "
        "WHERE run_id = :run",
        took=took, memory=memory, run=held.run_id,
    )  # fmt: skip
    return held.run_id


def worker(name="w:1", slots=1, **more):
    with transaction() as session:
        presence.here(session, Presence(name, "host", "default", slots, 1, "1", **more))


def places(pool="default"):
    with transaction() as session:
        found = forecast.queue_of(session, pool, 30)
        return found.slots, [(one.run.id, one.position, one.starts_s, one.ends_s) for one in found.waiting]


def test_what_runs_took_tells_what_runs_like_them_will_take(phantom):
    # Epochs of 4, 6 and 20 s: the median is 6. Other time: 18 - 2 x 4 = 10, 24 - 2 x 6 = 12, 60 - 2 x 20 = 20: 12.
    for number, (seconds, took, memory) in enumerate([(4, 18, 900), (6, 24, 1100), (20, 60, None)]):
        trained(2, seconds, took, memory, spec=spec(training={"seed": 100 + number}))
    worker()
    # They differ in what costs nothing: learning rate and seed. 5 epochs x 6 s + 12 s = 42 s; 10 x 6 + 12 = 72 s.
    ledger.submit(reuse=False, spec=spec(training={"learning_rate": 0.5, "epochs": 5}))
    ledger.submit(reuse=False, spec=spec(training={"seed": 9, "epochs": 10}))
    # Nothing is known about more filters, nor about what comes after them.
    ledger.submit(reuse=False, spec=spec(model={"filters": 3}))
    ledger.submit(reuse=False, spec=spec(training={"seed": 10}))
    assert places() == (1, [(4, 1, 0, 42), (5, 2, 42, 114), (6, 3, 114, None), (7, 4, None, None)])
    with transaction() as session:
        (known,) = forecast.experiences(session, "default").values()
    assert known == forecast.Experience(6, 12, 1100, 3)


def test_the_order_is_the_queues_and_a_checkpoint_counts(phantom):
    trained(2, 6, 24, 900)
    worker(slots=2)
    late, early = ledger.submit(reuse=False, spec=spec(training={"epochs": 4})) + ledger.submit(reuse=False)
    ledger.execute("UPDATE runs SET priority = 5, checkpoint = '{\"epoch\": 1}' WHERE id = :run", run=early)
    epochs = ledger.run(early).spec["training"]["epochs"]
    # 12 s beside its epochs; the first one has one epoch less to go.
    assert places() == (2, [(early, 1, 0, (epochs - 1) * 6 + 12), (late, 2, 0, 4 * 6 + 12)])


def test_slots_of_workers_that_take_no_runs_do_not_count(phantom):
    ledger.submit()
    worker("a:1", slots=4, draining=True)
    worker("b:1", slots=4, trouble="disk full")
    worker("c:1", slots=2)
    ledger.execute("UPDATE workers SET seen_at = seen_at - interval '1 hour' WHERE name = 'c:1'")
    assert places()[0] == 0
    worker("d:1", slots=3)
    assert places()[0] == 3
    with transaction() as session:
        assert forecast.pools(session) == ["default"]


def test_a_run_that_goes_on_ends_when_its_worker_says(phantom):
    trained(2, 6, 24, 900)
    worker()
    held = ledger.claimed()
    waiting = ledger.submit(reuse=False, spec=spec(training={"seed": 7, "epochs": 1}))
    with transaction() as session:
        ledger.queue.heartbeat(session, held, 30, {"epoch": 1, "seconds_left": 100.0})
    # 100 s of epochs and 12 s of everything else; then one epoch of 6 s and 12 s.
    assert places() == (1, [(waiting[0], 1, 112, 130)])
