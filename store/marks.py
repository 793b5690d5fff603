"""How far the moves of runs are complete, for whoever follows them by their ids."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text
from sqlalchemy.orm import Session

from store.models import RunEvent


@dataclass(frozen=True)
class Mark:
    """How far the moves had come when somebody looked.

    Ids are drawn before their transactions commit, so a smaller one may be seen after a larger one. Whoever draws an
    id has its number as a transaction by then (it has written a run): once all transactions before ``transaction``,
    which was drawn after ``newest`` had been seen, have ended, no move up to ``newest`` can come any more.
    """

    newest: int
    transaction: int


def newest(asked: Session | Connection) -> int:
    """The largest id that can be seen; 0 where nothing has happened yet."""
    return asked.scalar(select(func.max(RunEvent.id))) or 0


def drawn(asked: Session | Connection, newest: int) -> Mark:
    """A mark at ``newest``, which was seen before. A number of a transaction is used up for it."""
    return Mark(newest, asked.scalars(text("SELECT pg_current_xact_id()::text::bigint")).one())


def complete(asked: Session | Connection, mark: Mark) -> bool:
    """Whether every move up to the mark can be seen by what is asked after this; our own transaction counts too."""
    oldest = asked.scalars(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")).one()
    return bool(oldest >= mark.transaction)
