"""One engine a process, and transactions whose commit belongs to the edge that opened them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import psycopg
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from store import bundled
from store.settings import settings


def url() -> str:
    """The database of this process in SQLAlchemy's form."""
    chosen = make_url(settings().database_url or bundled.database_url(settings().home))
    return chosen.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@cache
def engine() -> Engine:
    """The engine of this process; connects on first use."""
    return create_engine(
        url(), pool_pre_ping=True, pool_size=10, max_overflow=20, connect_args={"connect_timeout": 5}
    )


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose work is committed at the end of the block, or rolled back as a whole."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session


def is_outage(error: BaseException) -> bool:
    """Whether ``error`` says that the database is away (worth retrying), not that a statement is wrong."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error.orig, psycopg.OperationalError)
    return isinstance(error, psycopg.OperationalError)
