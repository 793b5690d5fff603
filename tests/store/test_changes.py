"""What is told of a project while transactions overlap."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text

from store import changes, wishes
from store.changes import Followed, Moves
from store.database import looking, transaction
from store.models import DEFAULT_PROJECT
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def runs() -> list[int]:
    ledger.dataset()
    return ledger.submit(seeds=3)


def look(place: Followed, limit: int = 500, project: int = DEFAULT_PROJECT) -> tuple[Moves, Followed]:
    with looking() as connection:
        place = changes.marked(connection, place)
    with transaction() as session:
        return changes.of_project(session, project, place, limit)


def told(after: int = 0) -> list[tuple[int, str]]:
    return [(move.run_id, move.move) for move, _ in look(Followed(after))[0]]


def begun() -> Followed:
    """Where somebody is who follows from now on."""
    return look(Followed())[1]


@contextmanager
def in_another_transaction(run: int) -> Iterator[None]:
    """The run is cancelled by a transaction that commits after the block."""
    moved, commit = threading.Event(), threading.Event()

    def work() -> None:
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, run)
            session.flush()
            moved.set()
            assert commit.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert moved.wait(30)
        yield
    finally:
        commit.set()
        thread.join()


def test_a_move_waits_for_one_with_a_smaller_id_that_is_not_committed_yet(runs):
    first, second, _ = runs
    submitted = [(run, "submit") for run in runs]
    assert told() == submitted
    place = begun()
    with in_another_transaction(first):
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, second)
        moves, place = look(place)
        assert moves == []  # else whoever goes on after it would miss the other
        assert begun().after is None
    moves, place = look(place)
    assert (place.mark, place.told) == (None, frozenset())
    assert [(move.run_id, move.move) for move, _ in moves] == [(first, "cancel"), (second, "cancel")]
    assert look(place)[0] == []
    assert told() == [*submitted, (first, "cancel"), (second, "cancel")]
    assert look(begun())[0] == []


def test_a_transaction_that_stays_open_holds_up_the_moves_of_others_for_one_look(runs):
    first, second, third = runs
    begin = place = begun()
    with in_another_transaction(first):
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, second)
        _, place = look(place)
        moves, place = look(place)
        assert cancelled(moves) == [second]
        assert place.after == begin.after  # from here on nothing is missed
        assert look(place)[0] == []
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, third)
        moves, place = look(place)
        assert cancelled(moves) == [third]
        again = look(replace(begin, mark=place.mark, late=True))[0]
        assert cancelled(again) == [second, third]  # for whoever begins again before it ends
    moves, place = look(place)
    assert cancelled(moves) == [first]
    _, place = look(place)  # a mark at what was told meanwhile
    assert (place.mark, place.told, look(place)[0]) == (None, frozenset(), [])
    assert cancelled(look(begin)[0]) == [first, second, third]


def test_as_many_as_asked_for_are_told_at_once_while_a_transaction_stays_open(runs):
    place = Followed(0)
    with in_another_transaction(runs[0]):
        _, place = look(place)
        first, place = look(place, limit=2)
        second, place = look(place, limit=2)
        assert [move.run_id for move, _ in [*first, *second]] == runs
    moves, place = look(place, limit=2)
    assert (moves, place.told) == ([], frozenset())
    moves, place = look(place, limit=2)
    assert cancelled(moves) == [runs[0]]
    assert look(place)[0] == []


def test_a_transaction_that_stays_open_for_ever_makes_nobody_remember_all_that_follows(runs, monkeypatch):
    monkeypatch.setattr(changes, "EARLY", 2)
    place = Followed(0)
    with in_another_transaction(runs[0]):
        _, place = look(place)
        first, place = look(place, limit=2)
        assert [move.run_id for move, _ in first] == runs[:2]
        moves, place = look(place, limit=2)
        assert moves == []
    moves, place = look(place, limit=2)
    assert [move.run_id for move, _ in moves] == runs[2:]


def cancelled(moves: Moves) -> list[int]:
    """The runs of moves that are all of one kind."""
    assert {move.move for move, _ in moves} <= {"cancel"}
    return [move.run_id for move, _ in moves]


def test_a_move_is_not_missed_whose_transaction_is_younger_than_that_of_a_later_one(runs):
    """The elder has its number first and its move last: it ends while the younger, whose id is smaller, runs on."""
    first, second, _ = runs
    place = begun()
    with ExitStack() as younger:
        with transaction() as elder:
            elder.execute(text("SELECT pg_current_xact_id()"))
            younger.enter_context(in_another_transaction(first))
            wishes.cancel(elder, DEFAULT_PROJECT, second)
        before, place = look(place)
    after, _ = look(place)
    assert [(move.run_id, move.move) for move, _ in [*before, *after]] == [(first, "cancel"), (second, "cancel")]


def test_as_many_as_asked_for_are_told_at_once(runs):
    first, place = look(Followed(0), limit=2)
    second, place = look(place, limit=2)
    assert [move.run_id for move, _ in [*first, *second]] == runs
    assert (len(first), look(place, limit=2)[0]) == (2, [])


def test_another_projects_moves_are_not_told(runs):
    moves, place = look(Followed(0), project=DEFAULT_PROJECT + 1)
    assert moves == []
    assert place == begun()  # and it is not looked through them again
    assert look(place, project=DEFAULT_PROJECT + 1) == ([], place)
