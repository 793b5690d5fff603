"""Messages on their way: real receivers that are slow, away or several, and upkeep that never waits for them."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from store import deliveries, receivers, webhooks, wishes
from store.courier import AT_ONCE, Courier
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.upkeep import forget_messages
from store.webhooks import Wanted
from tests.processes import wait_for
from tests.receiver import Receiver
from tests.store import ledger


@pytest.fixture(autouse=True)
def phantom(database):
    return ledger.dataset()


@pytest.fixture
def receiver(database):
    with Receiver() as one:
        yield one


@pytest.fixture
def impatient(monkeypatch):
    """A failure is tried again after a tenth of a second at most, and again after four of them."""
    monkeypatch.setattr(deliveries, "FIRST_S", 0.1)


@pytest.fixture
def patient(monkeypatch):
    """A message may take as long as a receiver holds it."""
    monkeypatch.setattr(receivers, "SEND_S", 120.0)
    monkeypatch.setattr(deliveries, "LEASE_S", 600.0)


def hook(receiver, events=("run.ended",)):
    """A webhook for the receiver; its id and its secret."""
    with transaction() as session:
        made, _ = webhooks.add(session, DEFAULT_PROJECT, Wanted(receiver.url, events), "anna")
        return made.id, made.secret


@contextmanager
def couriers(count=1):
    some = [Courier() for _ in range(count)]
    for one in some:
        one.start()
    try:
        yield some
    finally:
        for one in some:
            one.stop()
    assert [one._thread.is_alive() for one in some] == [False] * count


def end(count=1):
    """Runs that end at once, in one experiment; their ids."""
    runs = ledger.submit(seeds=count, reuse=False)
    for run in runs:
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, run, "anna")
    return runs


def all_taken(count):
    """Wait until so many messages have been taken, and it is known that they were."""
    query = "SELECT count(*) FROM webhook_deliveries WHERE done_at IS NOT NULL AND error IS NULL"
    wait_for(f"{count} messages to be taken", lambda: ledger.rows(query) == [(count,)], 60)


def test_a_run_that_ends_is_told_of_once_and_the_receiver_can_check_it(receiver):
    _, secret = hook(receiver, ("run.ended", "experiment.ended"))
    with couriers():
        run = ledger.finished()
        all_taken(2)
        time.sleep(1)  # five passes more
    ended, over = receiver.got
    assert (ended.content["type"], ended.data["run"], ended.data["state"]) == ("run.ended", run, "succeeded")
    assert (over.content["type"], over.data["states"]) == ("experiment.ended", {"succeeded": 1})
    assert ended.id != over.id
    assert all(one.is_signed_with(secret) for one in receiver.got)


def test_a_receiver_that_was_away_gets_the_same_message_once_it_is_back(receiver, impatient):
    hook(receiver)
    receiver.stop()
    with couriers() as (courier,):
        first, second = end(2)
        wait_for("three attempts", lambda: courier.counts["error"] >= 3, 20)
        told = ledger.rows("SELECT message, error FROM webhook_deliveries ORDER BY id")
        assert told[0][1] == "cannot be reached (Connection refused)"
        assert told[1][1] is None  # the second one waits for the first
        receiver.start()
        all_taken(2)
    assert [(one.id, one.data["run"]) for one in receiver.got] == [(told[0][0], first), (told[1][0], second)]


def test_a_receiver_that_fails_gets_the_same_id_each_time(receiver, impatient):
    _, secret = hook(receiver)
    receiver.status = 503
    with couriers():
        end()
        wait_for("two attempts", lambda: len(receiver.got) >= 2, 20)
        receiver.status = 204
        all_taken(1)
    assert len({(one.id, one.body) for one in receiver.got}) == 1
    assert all(one.is_signed_with(secret) for one in receiver.got)
    ((attempts,),) = ledger.rows("SELECT attempts FROM webhook_deliveries")
    assert attempts == len(receiver.got) > 2


def test_a_slow_receiver_holds_back_neither_lost_runs_nor_other_receivers(receiver, upkeep, patient):
    """The lease of a run ends while a message is on its way for longer than that."""
    slow, _ = hook(receiver)
    receiver.hold()
    with Receiver() as other, couriers() as (courier,):
        held = ledger.claimed()
        quick, _ = hook(other)
        end()
        assert receiver.begun.wait(60)
        ledger.execute("UPDATE runs SET lease_until = clock_timestamp() WHERE id = :run", run=held.run_id)
        wait_for("the reaper", lambda: ledger.run(held.run_id).state == "queued", 60)
        end()
        wait_for("the other receiver's messages", lambda: len(other.got) == 2, 60)
        assert (receiver.got, courier.counts["error"]) == ([], 0)  # the first one is still on its way
        receiver.go_on()
    assert (slow, quick) == (1, 2)


def test_as_many_slow_receivers_as_there_are_threads_hold_others_back_for_seconds_alone(database, monkeypatch):
    monkeypatch.setattr(receivers, "SEND_S", 1.0)
    with ExitStack() as there:
        slow = [there.enter_context(Receiver()) for _ in range(AT_ONCE)]
        for one in slow:
            one.hold()
            hook(one)
        with Receiver() as quick, couriers():
            hook(quick)
            end()
            wait_for("the quick one", lambda: quick.got, 60)
            assert all(one.begun.is_set() and not one.got for one in slow)


def test_two_processes_share_the_work_and_nothing_is_sent_twice(receiver):
    hook(receiver)
    with Receiver() as other, couriers(2) as both:
        hook(other)
        runs = end(20)
        all_taken(40)
        time.sleep(0.5)
    for one in (receiver, other):
        assert [got.data["run"] for got in one.got] == runs  # in their order
    assert sum(one.counts["taken"] for one in both) == 40
    assert [one.counts["error"] for one in both] == [0, 0]


def test_a_removed_webhook_hears_nothing_more(receiver, impatient):
    number, _ = hook(receiver)
    receiver.status = 500
    with couriers() as (courier,):
        end(2)
        wait_for("an attempt", lambda: receiver.got, 10)
        with transaction() as session:
            webhooks.remove(session, webhooks.find(session, DEFAULT_PROJECT, number, hold=True))
        wait_for("what was on its way", lambda: not courier._busy, 10)
        before = len(receiver.got)
        receiver.status = 200
        end()
        time.sleep(1)
        assert len(receiver.got) == before
    assert ledger.rows("SELECT * FROM webhook_deliveries") == []


def test_a_private_receiver_gets_nothing(database, impatient):
    """The tests' settings allow 127.0.0.1 alone."""
    with Receiver("127.0.0.2") as private, couriers() as (courier,):
        hook(private)
        end()
        wait_for("an attempt", lambda: courier.counts["error"], 10)
        assert private.got == []
    ((error,),) = ledger.rows("SELECT error FROM webhook_deliveries")
    assert "LIVERSEG_WEBHOOK_PRIVATE" in error
    assert "127.0.0.2" not in error


def test_it_ends_in_time_and_leaves_the_rest_to_others(receiver, patient):
    hook(receiver)
    receiver.hold()
    with couriers() as (courier,), ThreadPoolExecutor(1) as threads:
        end(5)
        assert receiver.begun.wait(60)
        stopping = threads.submit(courier.stop)
        wait_for("it to take no more", lambda: not courier._thread.is_alive(), 60)
        assert not stopping.done()  # it ends after what is being sent
        receiver.go_on()
        stopping.result()
    assert [one.data["run"] for one in receiver.got] == [1]
    with couriers():
        all_taken(5)
    assert [one.data["run"] for one in receiver.got] == [1, 2, 3, 4, 5]


def test_it_lives_through_errors(receiver, monkeypatch, caplog):
    hook(receiver)
    real, asked = deliveries.gather, []

    def gather(session, mark):
        asked.append(mark)
        if len(asked) == 1:
            raise ZeroDivisionError
        return real(session, mark)

    monkeypatch.setattr(deliveries, "gather", gather)
    with couriers():
        end()
        all_taken(1)
    assert "ZeroDivisionError" in caplog.text


def test_the_upkeep_forgets_old_messages(receiver):
    hook(receiver)
    with couriers():
        end()
        all_taken(1)
    ledger.execute("UPDATE webhook_deliveries SET created_at = now() - interval '31 days'")
    forget_messages()
    assert ledger.rows("SELECT * FROM webhook_deliveries") == []


def test_a_failure_is_logged_without_the_address_which_may_be_a_secret(receiver, caplog):
    receiver.status = 500
    hook(receiver)
    with couriers():
        end()
        wait_for("a line", lambda: "webhook 1: answered 500" in caplog.text, 10)
    assert str(receiver.port) not in caplog.text
