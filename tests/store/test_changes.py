"""What is told of a project while transactions overlap."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.orm import Session

from store import changes, wishes
from store.database import snapshot, transaction
from store.models import DEFAULT_PROJECT
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def runs() -> list[int]:
    ledger.dataset()
    return ledger.submit(seeds=3)


def told(after: int = 0) -> list[tuple[int, str]]:
    with snapshot() as session:
        return [(move.run_id, move.move) for move, _ in changes.of_project(session, DEFAULT_PROJECT, after)]


def newest() -> int:
    with snapshot() as session:
        return changes.newest(session, DEFAULT_PROJECT)


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
    seen = newest()
    with in_another_transaction(first):
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, second)
        assert told(seen) == []  # else whoever goes on after it would miss the other
        assert newest() == seen
    assert told(seen) == [(first, "cancel"), (second, "cancel")]
    assert told() == [*submitted, (first, "cancel"), (second, "cancel")]
    assert told(newest()) == []


def test_as_many_as_asked_for_are_told_at_once(runs):
    def some(session: Session, after: int) -> list[int]:
        return [move.id for move, _ in changes.of_project(session, DEFAULT_PROJECT, after, limit=2)]

    with snapshot() as session:
        first = some(session, 0)
        assert [len(first), len(some(session, first[-1]))] == [2, 1]


def test_another_projects_moves_are_not_told(runs):
    with snapshot() as session:
        assert changes.of_project(session, DEFAULT_PROJECT + 1, 0) == []
        assert changes.newest(session, DEFAULT_PROJECT + 1) == 0
