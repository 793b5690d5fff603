"""Outbox, reconciler and reaper, with the broker really stopped, emptied and started again."""

import base64
import json
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from store import broker, bundled, deletion, queue, upkeep, wishes
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.settings import settings
from store.upkeep import Upkeep
from tests.conftest import SERVERS, broker_client, only_reading
from tests.store import ledger


@pytest.fixture(autouse=True)
def phantom(database):
    return ledger.dataset()


@pytest.fixture
def no_broker(database):
    """Valkey is stopped; call the value to start it again."""
    SERVERS["valkey"].stop()

    def start():
        if SERVERS["valkey"].process.poll() is not None:
            SERVERS["valkey"] = bundled.start_valkey(database)

    yield start
    start()


def messages(home, pool="default"):
    """What waits in the broker: (run, number) of each message, oldest first."""
    waiting = broker_client(home).lrange(broker.queue_name(pool), 0, -1)
    return [tuple(json.loads(decoded(one))[0]) for one in reversed(waiting)]


def decoded(message):
    return base64.b64decode(json.loads(message)["body"])


def outbox():
    return ledger.rows("SELECT run_id, number FROM outbox ORDER BY id")


def age_announcements():
    ledger.execute("UPDATE runs SET announced_at = announced_at - interval '1 hour'")


def until(condition, timeout=20):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


# --- relay -----------------------------------------------------------------------------------------------------


def test_relay_sends_in_order_and_empties_the_outbox(database):
    runs = ledger.submit(seeds=3)
    assert upkeep.relay() == 3
    assert messages(database) == [(run, 1) for run in runs]
    assert outbox() == []
    assert upkeep.relay() == 0


def test_nothing_is_sent_before_commit(database):
    with transaction() as session:
        session.execute(text("INSERT INTO outbox (run_id, pool, number) SELECT 1, 'default', 1 WHERE false"))
        ledger.submit()  # another connection, committed
        (run,) = [run for (run,) in session.execute(text("SELECT id FROM runs"))]
        queue.announce(session, session.get_one(ledger.Run, run))
        session.flush()
        assert upkeep.relay() == 1  # the committed one alone
    assert upkeep.relay() == 1
    assert messages(database) == [(run, 1), (run, 2)]


def test_a_submit_that_is_rolled_back_sends_nothing(database):
    with pytest.raises(ZeroDivisionError), transaction() as session:  # noqa: PT012 - the block is the subject
        ledger.experiments.submit(session, 1, ledger.factories.submission())
        raise ZeroDivisionError
    assert upkeep.relay() == 0
    assert messages(database) == []


def test_while_the_broker_is_away_rows_stay_and_go_out_when_it_returns(database, no_broker):
    runs = ledger.submit(seeds=3)
    for _ in range(2):
        with pytest.raises(broker.Unreachable):
            upkeep.relay()
    with pytest.raises(broker.Unreachable):
        broker.waiting("default")
    assert outbox() == [(run, 1) for run in runs]
    no_broker()
    assert upkeep.relay() == 3
    assert messages(database) == [(run, 1) for run in runs]


@contextmanager
def kept_waiting(monkeypatch, step):
    """While the block runs, the broker keeps ``step`` waiting, which runs in another thread; it ends in order."""
    asked, answered, waiting = threading.Event(), threading.Event(), broker.waiting

    def ask(pool):
        asked.set()
        assert answered.wait(60)
        return waiting(pool)

    monkeypatch.setattr(broker, "waiting", ask)
    with ThreadPoolExecutor(1) as threads:
        try:
            done = threads.submit(step)
            assert asked.wait(60)
            yield
        finally:
            answered.set()
        done.result()


@pytest.mark.parametrize("step", [upkeep.relay, upkeep.reconcile])
def test_a_broker_that_keeps_us_waiting_holds_up_nobody(database, monkeypatch, step):
    """A name server that does not answer does so for twenty seconds, and is asked for each connection."""
    first, second = ledger.submit(seeds=2)
    age_announcements()
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, second)
    with kept_waiting(monkeypatch, step):
        assert ledger.rows(OPEN) == [(0,)]  # else streams of moves would wait for it
        assert ledger.claim().claim.run_id == first
        with transaction() as session:
            planned = deletion.plan(session, DEFAULT_PROJECT, "run", deletion.Selection((second,)), hold=True)
            deletion.carry_out(session, DEFAULT_PROJECT, planned, "anna")
    assert ledger.rows("SELECT count(*) FROM outbox WHERE run_id = 2") == [(0,)]


READS_ONLY = "SHOW default_transaction_read_only"
OPEN = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
)


def test_a_producer_that_was_connected_survives_a_restart_of_the_broker(database, no_broker):
    no_broker()
    ledger.submit()
    assert upkeep.relay() == 1
    SERVERS["valkey"].process.kill()
    SERVERS["valkey"].process.wait()
    ledger.submit(seeds=[1])
    with pytest.raises(broker.Unreachable):
        upkeep.relay()
    no_broker()
    until(lambda: relayed() and not outbox())
    assert messages(database)[-1] == (2, 1)


def relayed():
    try:
        return upkeep.relay()
    except broker.Unreachable:
        return 0


def test_a_broker_without_memory_gets_no_message_twice(database):
    client = broker_client(database)
    ledger.submit(seeds=3)
    client.config_set("maxmemory", "1")
    try:
        for _ in range(3):
            with pytest.raises(broker.Unreachable, match="memory"):
                upkeep.relay()
    finally:
        client.config_set("maxmemory", "0")
    assert len(outbox()) == 3
    assert upkeep.relay() == 3
    assert messages(database) == [(1, 1), (2, 1), (3, 1)]


def test_a_database_that_only_reads_sends_nothing_again_and_again(database):
    (run,) = ledger.submit()
    with only_reading(database):
        until(lambda: ledger.rows(READS_ONLY) == [("on",)])
        for _ in range(2):
            with pytest.raises(DBAPIError, match="read-only"):
                upkeep.relay()
    until(lambda: ledger.rows(READS_ONLY) == [("off",)])
    assert messages(database) == []
    assert upkeep.relay() == 1
    assert messages(database) == [(run, 1)]


# --- reconcile -------------------------------------------------------------------------------------------------


def test_after_flushall_queued_runs_are_announced_again_when_their_announcement_is_old(database):
    runs = ledger.submit(seeds=3)
    upkeep.relay()
    broker_client(database).flushall()
    assert upkeep.reconcile() == 0  # not old yet
    age_announcements()
    assert upkeep.reconcile() == 3
    assert upkeep.relay() == 3
    assert messages(database) == [(run, 2) for run in runs]
    assert upkeep.reconcile() == 0


def test_two_hundred_queued_runs_have_the_hundred_messages_that_are_enough(database):
    ledger.submit(seeds=200)
    assert upkeep.relay() == 200
    age_announcements()
    assert upkeep.reconcile() == 0
    assert messages(database) == [(run, 1) for run in range(1, 101)]
    assert outbox() == []


def test_when_messages_were_taken_and_lost_a_long_queue_gets_a_hundred_again(database):
    ledger.submit(seeds=200)
    upkeep.relay()
    broker_client(database).lpop(broker.queue_name("default"), 97)
    age_announcements()
    assert upkeep.reconcile() == 97
    assert upkeep.relay() == 97
    assert len(messages(database)) == 100


def test_enough_messages_of_one_pool_keep_no_other_pools_back(database):
    ledger.submit(seeds=120)
    ledger.execute("UPDATE runs SET pool = 'gpu' WHERE id > 110")
    ledger.execute("UPDATE outbox SET pool = 'gpu' WHERE run_id > 110")
    upkeep.relay()
    assert (len(messages(database)), len(messages(database, "gpu"))) == (100, 10)


def test_only_as_many_as_are_missing_are_announced(database):
    ledger.submit(seeds=20)
    upkeep.relay()
    broker_client(database).lpop(broker.queue_name("default"), 5)
    age_announcements()
    assert upkeep.reconcile() == 5
    upkeep.relay()
    assert len(messages(database)) == 20


def test_what_is_still_in_the_outbox_is_not_announced_again(database):
    ledger.submit(seeds=10)
    age_announcements()  # the broker was away for an hour
    assert upkeep.reconcile() == 0
    upkeep.relay()
    assert len(messages(database)) == 10


def test_one_pools_messages_do_not_hide_anothers_loss(database):
    ledger.submit(seeds=4)
    ledger.execute("UPDATE runs SET pool = 'gpu' WHERE id > 2")
    ledger.execute("UPDATE outbox SET pool = 'gpu' WHERE run_id > 2")
    upkeep.relay()
    broker_client(database).delete(broker.queue_name("gpu"))
    age_announcements()
    assert upkeep.reconcile() == 2
    upkeep.relay()
    assert messages(database, "gpu") == [(3, 2), (4, 2)]


def test_a_claimed_run_is_not_announced(database):
    ledger.claimed()
    ledger.execute("DELETE FROM outbox")
    age_announcements()
    assert upkeep.reconcile() == 0


# --- several at once -------------------------------------------------------------------------------------------


def test_two_relays_leave_nothing_and_count_each_announcement_once(database):
    ledger.submit(seeds=100)
    with ThreadPoolExecutor(2) as threads:
        sent = list(threads.map(lambda _: upkeep.relay(), range(2)))
    assert sum(sent) == 100
    assert sorted(set(messages(database))) == [(run, 1) for run in range(1, 101)]
    assert outbox() == []


def test_another_relay_sends_what_one_is_kept_waiting_with(database, monkeypatch):
    (run,) = ledger.submit()
    waiting = broker.waiting
    with kept_waiting(monkeypatch, upkeep.relay):
        monkeypatch.setattr(broker, "waiting", waiting)
        assert upkeep.relay() == 1
        assert messages(database) == [(run, 1)]
    assert messages(database) == [(run, 1), (run, 1)]  # which is harmless: the second finds nothing to claim


def test_two_upkeeps_have_no_double_effect(database):
    with two_upkeeps():
        runs = ledger.submit(seeds=30)
        until(lambda: not outbox())
    assert sorted(set(messages(database))) == [(run, 1) for run in runs]
    broker_client(database).flushall()
    age_announcements()
    with two_upkeeps():
        until(lambda: len(set(messages(database))) == 30 and not outbox())
        time.sleep(3 * settings().upkeep_s)
    assert sorted(set(messages(database))) == [(run, 2) for run in runs]
    assert ledger.rows("SELECT DISTINCT announcements FROM runs") == [(2,)]


@contextmanager
def two_upkeeps():
    """Both have ended after the block, with what they were at."""
    two = [Upkeep(), Upkeep()]
    for one in two:
        one.start()
    try:
        yield
    finally:
        for one in two:
            one.stop()
    assert not any(thread.is_alive() for one in two for thread in one._threads)


def test_passes_leave_alone_what_another_process_is_at(database):
    held = ledger.claimed()
    ledger.submit(seeds=[1])
    age_announcements()
    ledger.execute("DELETE FROM outbox")
    ledger.execute("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s' WHERE state = 'running'")
    with transaction() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(815001, n) FROM generate_series(1, 2) n"))
        assert (upkeep.reap(), upkeep.reconcile()) == ([], 0)
    assert upkeep.reconcile() == 1
    until(lambda: upkeep.reap() == [held.run_id])  # once Postgres has run for as long as a lease


# --- the threads -----------------------------------------------------------------------------------------------


def test_wake_starts_a_pass_soon(database, monkeypatch):
    monkeypatch.setattr(upkeep, "settings", lambda: settings().model_copy(update={"upkeep_s": 60.0}))
    thread = Upkeep()
    thread.start()
    try:
        until(lambda: "relay" in thread.counts)  # in its first pass; the next one is a minute away
        ledger.submit()
        thread.wake()
        until(lambda: len(messages(database)) == 1, timeout=30)
    finally:
        thread.stop()


def test_the_thread_lives_through_an_outage_of_the_broker(database, no_broker, caplog):
    thread = Upkeep()
    with caplog.at_level(logging.WARNING, "store.upkeep"):
        thread.start()
        try:
            ledger.submit()
            until(lambda: "the broker is away" in caplog.text)
            no_broker()
            until(lambda: len(messages(database)) == 1 and not outbox())
        finally:
            thread.stop()
    assert "Traceback" not in caplog.text


def test_the_reaper_does_not_wait_for_the_broker(database, monkeypatch):
    held = ledger.claimed()
    thread = Upkeep()
    with kept_waiting(monkeypatch, thread.start):  # its relay, by what the submission left in the outbox
        try:
            ledger.execute("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s'")
            until(lambda: ledger.run(held.run_id).state == "queued")
        finally:
            thread._stop.set()
    thread.stop()


def test_a_broker_that_keeps_its_sender_waiting_counts_as_away(database, monkeypatch):
    thread, frozen = Upkeep(), SERVERS["valkey"].process
    thread._look()
    assert not thread.degraded
    monkeypatch.setattr(broker, "SENDER_WAITS_S", 0.1)  # what its connections have is longer, as for a name server
    frozen.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        try:
            threads.submit(thread._look)
            until(lambda: thread.degraded)
            assert not thread._away  # it was not told so yet
        finally:
            frozen.send_signal(signal.SIGCONT)
    thread._look()
    assert not thread.degraded


def test_who_asks_for_the_broker_before_it_was_looked_at_is_not_kept_waiting_with_us(database, monkeypatch):
    thread = Upkeep()
    with kept_waiting(monkeypatch, thread._look):
        assert not thread.hears_the_broker()
    assert thread.hears_the_broker()


@pytest.mark.parametrize(
    ("step", "noticed"), [("reap", "_keeping_pass"), ("touch", "_keeping_pass"), ("reconcile", "_announcing_pass")]
)
def test_after_an_outage_of_the_database_a_lease_passes_before_anything_is_taken_back(
    database, monkeypatch, step, noticed
):
    """Workers could not renew their leases meanwhile, though Postgres itself may never have stopped."""
    held = ledger.claimed()
    ledger.execute("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s'")
    now = 1000.0
    monkeypatch.setattr(upkeep, "time", SimpleNamespace(monotonic=lambda: now))
    thread = Upkeep()

    def away():
        raise OperationalError("SELECT 1", {}, closed(), connection_invalidated=True)

    if step == "touch":  # what it does while it does not reap
        thread._reap_from = now + 1
    with monkeypatch.context() as outage:
        outage.setattr(upkeep, step, away)
        getattr(thread, noticed)()
    now += settings().lease_s - 0.1
    thread._keeping_pass()
    assert ledger.run(held.run_id).state == "running"
    now += 0.2
    thread._keeping_pass()
    assert ledger.run(held.run_id).state == "queued"


def closed():
    return psycopg.OperationalError("server closed the connection unexpectedly")
