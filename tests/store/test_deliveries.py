"""Ends of runs become messages, each once, whoever ended the run and in whatever order transactions commit."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import psycopg
import pytest
from sqlalchemy import text

from liverseg_core.errors import InputError, SpecError
from store import bundled, deletion, deliveries, endings, experiments, scorings, webhooks, wishes
from store.database import transaction
from store.endings import Ending
from store.marks import Mark
from store.models import DEFAULT_PROJECT, Webhook
from store.queue import Claim
from store.receivers import Answer
from store.settings import settings
from store.states import FINAL
from store.webhooks import Wanted
from tests import factories
from tests.store import ledger
from tests.store.test_races import wait_until_somebody_waits

TAKEN, FAILED = Answer(200, None), Answer(500, "answered 500")


@pytest.fixture(autouse=True)
def phantom(database):
    return ledger.dataset()


def hook(project=DEFAULT_PROJECT, **wanted):
    """A new webhook; its id."""
    with transaction() as session:
        return webhooks.add(session, project, Wanted("https://example.org/", **wanted), "anna")[0].id


def gather(mark=None):
    with transaction() as session:
        return deliveries.gather(session, mark)


def written(webhook=None):
    """(event, run or experiment, state or states) of every message, in the order in which they are sent."""
    found = ledger.rows("SELECT webhook_id, body FROM webhook_deliveries ORDER BY id")
    bodies = [json.loads(body) for number, body in found if webhook in (None, number)]
    return [
        (
            one["type"],
            one["data"].get("run", one["data"]["experiment"]),
            one["data"].get("state", one["data"].get("states")),
        )
        for one in bodies
    ]


def fail(held: Claim):
    with transaction() as session:
        endings.fail(session, held, "bad-input", Ending(1, "no such slice"))


def kill(held: Claim):
    with transaction() as session:
        endings.crash(session, held, Ending(-9), max_crashes=1)


def cancel(run):
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run, "anna")


# ---- what is written -----------------------------------------------------------------------------------------


def test_an_end_is_written_once_and_says_what_was_scored(database):
    number = hook(events=("run.ended",))
    run = ledger.finished(spec=factories.tiny_spec() | {"name": "Größe"})
    assert gather() is None
    assert gather() is None
    ((webhook, event, move, message, body),) = ledger.rows(
        "SELECT webhook_id, event, move_id, message, body FROM webhook_deliveries"
    )
    (last,) = ledger.rows("SELECT id, at FROM run_events ORDER BY id DESC LIMIT 1")
    assert (webhook, event, move) == (number, "run.ended", last[0])
    assert message.startswith("msg_")
    told = json.loads(body)
    assert told["type"] == "run.ended"
    assert abs(datetime.fromisoformat(told["timestamp"]) - last[1]) < timedelta(milliseconds=1)
    data = told["data"]
    scores = data.pop("scores")
    # Of the one slice: 2 * 6 lesion pixels in common, 10 true and 6 + 1 predicted; of liver, lesion included, 37 in
    # common, 40 true and 39 predicted.
    assert (scores["profile"], scores["part"]) == ("overview", "val")
    assert scores["pooled_lesion_dice"] == pytest.approx(12 / 17)
    assert scores["pooled_liver_dice"] == pytest.approx(74 / 79)
    assert data == {
        "run": run,
        "name": "Größe",
        "kind": "train",
        "state": "succeeded",
        "reason": None,
        "reused_from": None,
        "experiment": 1,
        "experiment_name": "Größe",
        "project": "default",
        "link": f"{settings().url}/runs/{run}",
    }


def test_every_final_state_is_told_and_no_other(database):
    hook(events=("run.ended",))
    ledger.finished()
    fail(ledger.claimed())
    kill(ledger.claimed())
    (waiting,) = ledger.submit(reuse=False)
    cancel(waiting)
    held = ledger.claimed()
    cancel(held.run_id)  # it is stopping
    gather()
    assert written() == [("run.ended", run, state) for run, state in enumerate(ENDS, 1)]
    assert set(ENDS) == FINAL
    with transaction() as session:
        endings.release(session, held, Ending())
        wishes.edit(session, DEFAULT_PROJECT, 1, {"notes": "an edit is no end"}, "anna")
    gather()
    assert written()[4:] == [("run.ended", held.run_id, "cancelled")]


ENDS = ("succeeded", "failed", "dead", "cancelled")


def test_only_the_states_and_events_that_are_wanted(database):
    bad = hook(events=("run.ended",), states=("dead", "failed"))
    whole = hook(events=("experiment.ended",))
    ledger.finished()
    fail(ledger.claimed())
    gather()
    assert written(bad) == [("run.ended", 2, "failed")]
    assert written(whole) == [("experiment.ended", 1, {"succeeded": 1}), ("experiment.ended", 2, {"failed": 1})]


def test_an_experiment_ends_with_its_last_run_whatever_the_order(database):
    hook()
    ledger.submit(seeds=3)
    first, second, third = (ledger.claim().claim for _ in range(3))
    fail(second)
    gather()
    ledger.finish(third)
    gather()
    assert written() == [("run.ended", 2, "failed"), ("run.ended", 3, "succeeded")]
    ledger.finish(first)
    gather()
    gather()
    over = ("experiment.ended", 1, {"failed": 1, "succeeded": 2})
    assert written()[2:] == [("run.ended", 1, "succeeded"), over]


def test_an_experiment_whose_dead_run_is_requeued_ends_again(database):
    hook()
    held = ledger.claimed()
    kill(held)
    gather()
    with transaction() as session:
        wishes.requeue(session, DEFAULT_PROJECT, held.run_id, "anna")
    gather()
    assert len(written()) == 2
    ledger.finish(ledger.claim().claim)
    gather()
    assert [one[0] for one in written()] == ["run.ended", "experiment.ended"] * 2
    assert written()[2:] == [("run.ended", 1, "succeeded"), ("experiment.ended", 1, {"succeeded": 1})]


def test_a_reused_run_ends_as_it_is_submitted_and_shows_the_others_scores(database):
    first = ledger.finished()
    hook()
    (again,) = ledger.submit()
    gather()
    assert written() == [("run.ended", again, "succeeded"), ("experiment.ended", 2, {"succeeded": 1})]
    (body,) = [json.loads(body)["data"] for (body,) in ledger.rows("SELECT body FROM webhook_deliveries LIMIT 1")]
    assert body["reused_from"] == first
    assert body["scores"]["pooled_lesion_dice"] == pytest.approx(12 / 17)


def test_reference_predictors_which_nobody_submitted_are_not_told_of(database):
    hook()
    with transaction() as session:
        done = experiments.submit(session, DEFAULT_PROJECT, factories.submission())
        scorings.add_references(session, DEFAULT_PROJECT, [(one.spec, one.dataset) for one in done.planned])
    held = ledger.claim().claim
    assert ledger.run(held.run_id).kind == "reference"
    ledger.finish(held)
    gather()
    assert written() == []


def test_what_ended_before_and_in_other_projects_is_not_told(database):
    other = ledger.second_project()
    ledger.dataset(project=other)
    ledger.finished()
    own, foreign = hook(), hook(other)
    ledger.finished()
    gather()
    assert [one[1] for one in written(own)] == [2, 2]
    assert written(foreign) == []
    cancel_other(other)
    gather()
    assert len(written(own)) == 2
    assert written(foreign) == [("run.ended", 3, "cancelled"), ("experiment.ended", 3, {"cancelled": 1})]


def cancel_other(project):
    (run,) = ledger.submit(project)
    with transaction() as session:
        wishes.cancel(session, project, run, "bert")


def test_more_ends_than_are_read_at_once_keep_their_order(database, monkeypatch):
    monkeypatch.setattr(deliveries, "CHUNK", 3)
    monkeypatch.setattr(deliveries, "ENDS", deliveries.ENDS.limit(3))
    hook()
    runs = ledger.submit(seeds=10)
    for run in runs:
        cancel(run)
    gather()
    ended = [("run.ended", run, "cancelled") for run in runs]
    assert written() == [*ended, ("experiment.ended", 1, {"cancelled": 10})]
    gather()
    assert len(written()) == 11


def test_a_run_that_is_deleted_before_anybody_looked_is_not_told_of_and_one_afterwards_is(database):
    hook(events=("run.ended",))
    for run in ledger.submit(seeds=2):
        cancel(run)
        if run == 2:
            gather()
        with transaction() as session:
            planned = deletion.plan(session, DEFAULT_PROJECT, "run", deletion.Selection((run,)), hold=True)
            deletion.carry_out(session, DEFAULT_PROJECT, planned, "anna")
    gather()
    assert written() == [("run.ended", 2, "cancelled")]


# ---- whoever writes, and whenever they commit ----------------------------------------------------------------


@pytest.fixture
def old_worker(database):
    """Opens connections of a program that knows nothing of webhooks and ends runs by the ledger's tables alone."""
    opened = []

    def connect():
        opened.append(psycopg.connect(bundled.database_url(database)))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def end(connection, run):
    connection.execute("UPDATE runs SET state = 'failed', lease_until = NULL WHERE id = %s", (run,))
    connection.execute(
        "INSERT INTO run_events (run_id, move, state, attempt) VALUES (%s, 'fail', 'failed', 1)", (run,)
    )


def test_a_worker_of_an_older_version_ends_a_run(old_worker):
    hook()
    held = ledger.claimed()
    line = old_worker()
    end(line, held.run_id)
    gather()
    assert written() == []  # not before the end is committed
    line.commit()
    gather()
    assert written() == [("run.ended", 1, "failed"), ("experiment.ended", 1, {"failed": 1})]


def seen():
    return ledger.rows("SELECT seen FROM webhooks")[0][0]


def test_an_end_that_commits_after_later_ones_is_not_missed(old_worker):
    """Its id is smaller, its transaction's number larger; whoever looked in between has seen the other one alone."""
    hook(events=("run.ended",))
    for _ in range(2):
        ledger.claimed()
    early, late = old_worker(), old_worker()
    early.execute("SELECT pg_current_xact_id()")
    end(late, 1)
    end(early, 2)
    early.commit()
    before = seen()
    mark = gather()
    assert isinstance(mark, Mark)
    assert gather(mark) == mark  # nothing is passed over while the other one may come
    assert (written(), seen()) == ([("run.ended", 2, "failed")], before)
    late.commit()
    assert gather(mark) is None
    assert written() == [("run.ended", 2, "failed"), ("run.ended", 1, "failed")]
    assert seen() == ledger.rows("SELECT max(id) FROM run_events")[0][0]
    assert gather() is None
    assert len(written()) == 2


def test_a_process_that_was_away_with_its_mark_takes_nothing_back(old_worker):
    hook(events=("run.ended",))
    for _ in range(2):
        ledger.claimed()
    line = old_worker()
    end(line, 1)
    kill(Claim(2, 1))
    mark = gather()
    line.commit()
    assert gather() is None  # another process
    after = seen()
    cancel(ledger.submit(reuse=False)[0])
    gather()
    assert seen() > after
    assert gather(mark) is None
    assert len(written()) == 3
    assert gather() is None
    assert seen() == ledger.rows("SELECT max(id) FROM run_events")[0][0]


def test_one_process_gathers_at_a_time(database):
    hook(events=("run.ended",))
    ledger.finished()
    with transaction() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(815001, 5)"))
        assert gather(Mark(1, 2)) == Mark(1, 2)
        assert written() == []
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: gather(), range(8)))
    assert len(written()) == 1


def test_without_a_webhook_nothing_is_looked_at(database):
    ledger.finished()
    assert gather() is None
    assert written() == []


# ---- switching and removing ----------------------------------------------------------------------------------


def switch(number, on):
    with transaction() as session:
        webhooks.switch(session, webhooks.find(session, DEFAULT_PROJECT, number, hold=True), on, "anna")


def test_what_ends_while_a_webhook_is_off_is_not_told_later(database):
    number = hook(events=("run.ended",))
    ledger.finished()
    gather()
    switch(number, False)
    fail(ledger.claimed())
    gather()
    with transaction() as session:
        assert deliveries.claim(session, 4) == []
        assert session.get_one(Webhook, number).off_by == "anna"
    switch(number, True)
    gather()
    kill(ledger.claimed())
    gather()
    assert [one[2] for one in written()] == ["succeeded", "dead"]
    (first,) = claim()
    assert json.loads(first.body)["data"]["run"] == 1  # it had waited


def test_switching_to_what_is_changes_nothing(database):
    number = hook()
    switch(number, True)
    switch(number, False)
    before = ledger.rows("SELECT w::text FROM webhooks w")
    switch(number, False)
    assert ledger.rows("SELECT w::text FROM webhooks w") == before


def test_a_removed_webhook_leaves_nothing_even_while_ends_are_gathered(database):
    """Whoever gathers passes over one that is being removed."""
    number, other = hook(), hook()
    ledger.finished()
    gather()
    fail(ledger.claimed())
    with transaction() as session:
        webhooks.remove(session, webhooks.find(session, DEFAULT_PROJECT, number, hold=True))
        with ThreadPoolExecutor(1) as threads:
            threads.submit(gather).result(timeout=10)
    assert written(number) == []
    assert len(written(other)) == 4
    assert ledger.rows("SELECT id FROM webhooks") == [(other,)]


def test_a_project_has_so_many_and_no_more(database):
    for _ in range(webhooks.MOST):
        hook()
    with pytest.raises(InputError, match="webhook 21 of this project"):
        hook()
    hook(ledger.second_project())


def test_one_key_makes_one_webhook(database):
    wanted, start = Wanted("https://example.org/"), threading.Barrier(4)

    def add(_):
        start.wait()
        with transaction() as session:
            made, new = webhooks.add(session, DEFAULT_PROJECT, wanted, "anna", "key")
            return made.id, made.secret, new

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(add, range(4)))
    assert len({one[:2] for one in found}) == 1
    assert sorted(one[2] for one in found) == [False, False, False, True]
    with pytest.raises(SpecError, match="another body"), transaction() as session:
        webhooks.add(session, DEFAULT_PROJECT, Wanted("https://example.org/other"), "anna", "key")


# ---- handing out ---------------------------------------------------------------------------------------------


def claim(most=4):
    with transaction() as session:
        return deliveries.claim(session, most)


def settle(sent, answer):
    with transaction() as session:
        deliveries.settle(session, sent, answer)


def standing(number=1):
    with transaction() as session:
        return session.get_one(Webhook, number)


def due():
    """As if the wait after a failure were over."""
    ledger.execute("UPDATE webhooks SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")


def test_messages_of_a_webhook_are_handed_out_one_after_the_other(database):
    first, second = hook(events=("run.ended",)), hook(events=("run.ended",))
    for run in ledger.submit(seeds=2):
        cancel(run)
    gather()
    both = claim()
    assert [(one.webhook, json.loads(one.body)["data"]["run"]) for one in both] == [(first, 1), (second, 1)]
    assert claim() == []
    settle(both[0], TAKEN)
    (next_one,) = claim()
    assert (next_one.webhook, json.loads(next_one.body)["data"]["run"]) == (first, 2)
    settle(next_one, TAKEN)
    assert claim() == []
    settle(both[1], TAKEN)
    assert [one.webhook for one in claim(1)] == [second]


def test_who_has_waited_longest_is_next(database):
    numbers = [hook(events=("run.ended",)) for _ in range(3)]
    for run in ledger.submit(seeds=3):
        cancel(run)
    gather()
    order = []
    for _ in range(6):
        (one,) = claim(1)
        order.append(one.webhook)
        settle(one, TAKEN)
    assert order == numbers * 2


def test_several_processes_claim_a_message_once(database):
    for _ in range(8):
        hook(events=("run.ended",))
    ledger.finished()
    gather()
    with ThreadPoolExecutor(4) as threads:
        found = [one.webhook for some in threads.map(lambda _: claim(), range(4)) for one in some]
    assert len(found) == len(set(found))
    assert sorted([*found, *(one.webhook for one in claim(8))]) == list(range(1, 9))


@pytest.mark.parametrize("messages", [1, 2])
def test_what_is_taken_while_another_process_looks_is_not_sent_again(database, monkeypatch, messages):
    """A statement sees messages as they were when it began, and webhooks that it locks as they are by then."""
    hook(events=("run.ended",))
    for run in ledger.submit(seeds=messages):
        cancel(run)
    gather()
    due = deliveries.DUE
    slow = str(due).replace("FROM webhooks WHERE", "FROM webhooks, pg_advisory_xact_lock_shared(1) WHERE")
    monkeypatch.setattr(deliveries, "DUE", text(slow.replace("UPDATE SKIP", "UPDATE OF webhooks SKIP")))
    with ThreadPoolExecutor(1) as threads:
        with transaction() as session:
            session.execute(text("SELECT pg_advisory_xact_lock(1)"))
            other = threads.submit(claim)
            wait_until_somebody_waits()
            monkeypatch.setattr(deliveries, "DUE", due)
            (sent,) = claim()
            settle(sent, TAKEN)
        assert [one.delivery for one in other.result()] == [sent.delivery + 1][: messages - 1]


def test_a_message_that_failed_waits_with_all_that_follow_and_keeps_its_id(database):
    hook(events=("run.ended",))
    for run in ledger.submit(seeds=2):
        cancel(run)
    gather()
    (sent,) = claim()
    settle(sent, FAILED)
    assert claim() == []  # not due, the second one neither
    assert standing().failures == 1
    assert 0 < (standing().due_at - standing().claimed_until).total_seconds() <= 5
    due()
    (again,) = claim()
    assert (again.delivery, again.message, again.body) == (sent.delivery, sent.message, sent.body)
    settle(again, TAKEN)
    assert (standing().failures, standing().due_at) == (0, None)
    found = ledger.rows("SELECT attempts, status, error, done_at IS NULL FROM webhook_deliveries ORDER BY id")
    assert found == [(2, 200, None, False), (0, None, None, True)]


def test_too_many_failures_in_a_row_switch_it_off_and_say_why(database):
    hook(events=("run.ended",))
    ledger.finished()
    gather()
    for attempt in range(1, 11):
        assert standing().off_at is None
        due()
        (sent,) = claim()
        settle(sent, Answer(None, "no answer within 5 s") if attempt == 10 else FAILED)
    told = standing()
    assert told.off_at is not None
    assert (told.off_by, told.failures) == (None, 10)
    assert told.off_reason == "10 attempts in a row failed; the last: no answer within 5 s"
    due()
    assert claim() == []
    switch(1, True)
    assert [one.delivery for one in claim()] == [sent.delivery]
    assert (standing().off_reason, standing().failures) == (None, 0)


def test_waits_grow_to_a_day_and_differ(database):
    """5 s, 20 s, 80 s, ... = 5 * 4 ** n; at the eighth failure 81,920 s, then a day."""
    longest = [max(deliveries.wait_s(failures) for _ in range(300)) for failures in range(1, 12)]
    shortest = [min(deliveries.wait_s(failures) for _ in range(300)) for failures in range(1, 12)]
    wanted = [5, 20, 80, 320, 1280, 5120, 20480, 81920, 86400, 86400, 86400]
    assert longest == pytest.approx(wanted, rel=0.05)
    assert shortest == pytest.approx([one / 2 for one in wanted], rel=0.05)
    assert all(high <= most for high, most in zip(longest, wanted, strict=True))


def test_a_process_that_vanished_with_a_message_leaves_it_to_another(database):
    hook(events=("run.ended",))
    ledger.finished()
    gather()
    (lost,) = claim()
    ledger.execute("UPDATE webhooks SET claimed_until = clock_timestamp() - interval '1 s'")
    (again,) = claim()
    assert again.message == lost.message
    settle(lost, FAILED)  # it comes back, and no longer decides when the webhook is due
    assert (standing().failures, standing().due_at) == (0, None)
    assert claim() == []
    settle(again, TAKEN)
    settle(lost, FAILED)
    assert ledger.rows("SELECT status, done_at IS NULL FROM webhook_deliveries") == [(200, False)]


def test_a_message_that_was_claimed_long_ago_is_not_sent_any_more():
    """It takes 5 s at most, so whoever starts within 20 s has ended before another may claim it, after 30 s."""
    assert deliveries.in_time(19)
    assert not deliveries.in_time(21)


def test_what_became_of_a_message_of_a_removed_webhook_is_nothing(database):
    number = hook(events=("run.ended",))
    ledger.finished()
    gather()
    (sent,) = claim()
    with transaction() as session:
        webhooks.remove(session, webhooks.find(session, DEFAULT_PROJECT, number, hold=True))
    settle(sent, TAKEN)
    settle(sent, FAILED)
    assert ledger.rows("SELECT * FROM webhook_deliveries") == []


def test_messages_are_forgotten_after_a_month(database):
    hook(events=("run.ended",))
    for run in ledger.submit(seeds=3):
        cancel(run)
    gather()
    ledger.execute("UPDATE webhook_deliveries SET created_at = now() - interval '31 days' WHERE id = 1")
    ledger.execute("UPDATE webhook_deliveries SET created_at = now() - interval '29 days' WHERE id = 2")
    with transaction() as session:
        assert deliveries.forget(session) == 1
    assert ledger.rows("SELECT id FROM webhook_deliveries ORDER BY id") == [(2,), (3,)]
    gather()
    assert ledger.rows("SELECT count(*) FROM webhook_deliveries") == [(2,)]  # and not written anew
